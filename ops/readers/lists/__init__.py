"""Logs of rankings, apart from what they are read for: their columns, their values and their rows."""
