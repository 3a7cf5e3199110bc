"""Rooms together, on real parts."""
