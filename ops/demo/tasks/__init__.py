"""What the demo plays: a support desk and a shop."""
