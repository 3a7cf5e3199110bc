"""The broker for the tests in this folder."""

from tests.kafka.fixtures import kafka_broker

__all__ = ["kafka_broker"]
