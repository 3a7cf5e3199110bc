"""Copies of what lies in Redis: taken at one instant while it is written to, and put back in one step."""
