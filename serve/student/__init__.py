"""Versions in service."""
