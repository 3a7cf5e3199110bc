"""Logs that are servers of their own."""
