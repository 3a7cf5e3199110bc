"""What was done for a lane, written down for good, and what that comes to in dollars."""
