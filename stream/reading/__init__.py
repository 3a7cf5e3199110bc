"""How ingest goes about what it cannot take now."""
