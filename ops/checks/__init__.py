"""Checks of what is kept against where it came from."""
