"""The daemon's own side of training: its ticks, its cycles, and what it says of them."""
