"""The logs under the contract, as fixtures."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.contracts.logs import EmbeddedHarness, KafkaHarness, Log, MemoryHarness
from tests.kafka.fixtures import kafka_broker

__all__ = ["kafka_broker"]


@pytest.fixture(params=["memory", "embedded", "kafka"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """Each log in turn."""
    if request.param == "memory":
        yield MemoryHarness()
    elif request.param == "embedded":
        with closing(EmbeddedHarness(request.getfixturevalue("redis_url"))) as embedded:
            yield embedded
    else:
        with closing(KafkaHarness(request.getfixturevalue("kafka_broker"))) as kafka:
            yield kafka
