"""Near-duplicates: linked at freeze, never at ingest."""
