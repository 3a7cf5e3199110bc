"""What people decide about dead letters: signed, and noted where it takes effect."""
