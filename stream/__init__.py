"""The log of escalations: Kafka and its embedded stand-in, publishing, the ingest loop, dead letters."""
