"""What the demo shows: the live view, the figures, the report."""
