"""What each task sends to its teacher, and how the answer is read."""
