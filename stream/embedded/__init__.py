"""Redis streams as the log of a machine without Kafka."""
