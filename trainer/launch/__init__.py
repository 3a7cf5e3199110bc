"""A cycle's heavy part on several processes, one a device: started by torchrun's agent, watched, ended whole."""
