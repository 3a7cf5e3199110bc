"""Clients of other houses, unchanged: `make test-clients`."""
