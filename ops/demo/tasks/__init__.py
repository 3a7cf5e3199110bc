"""What the demo plays: a support desk, a shop and a smart home."""
