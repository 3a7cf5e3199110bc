"""What lanes cost and save, for people."""
