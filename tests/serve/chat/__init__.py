"""Chat at the gateway."""
