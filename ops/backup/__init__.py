"""Backups of an installation, and restoring from them."""
