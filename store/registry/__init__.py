"""Versions of the student and the signed moves between them."""
