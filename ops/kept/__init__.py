"""What the buffer keeps, for people and other programs: figures, and a copy of it."""
