"""Ranking at the gateway."""
