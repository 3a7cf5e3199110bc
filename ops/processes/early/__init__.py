"""What a process of ours does before it imports anything that takes time."""
