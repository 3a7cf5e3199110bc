"""What the trainer is at, for those who wait for it."""
