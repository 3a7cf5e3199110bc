"""Commands on the replay buffer: look at it, copy it, work it out anew."""
