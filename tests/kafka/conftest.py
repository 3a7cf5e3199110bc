"""The broker for the tests in this folder."""

from tests.kafka.fixtures import kafka_broker, stand, tidy_sockets

__all__ = ["kafka_broker", "stand", "tidy_sockets"]
