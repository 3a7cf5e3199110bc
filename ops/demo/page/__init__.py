"""What the demo shows: the live view, the figure and the report."""
