"""Faults that tests make on purpose, at places with names."""
