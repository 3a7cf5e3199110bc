"""A real Kafka as a fixture: name `kafka_broker` in a test and import it where it is used.

In a folder's conftest.py: `from tests.kafka.fixtures import kafka_broker` (with `__all__`). Without Java or Maven the
tests skip at a desk and fail where CI is set.
"""

import os
from collections.abc import Iterator

import pytest

from tests.kafka.broker import Broker, MissingError, running_broker

__all__ = ["kafka_broker"]


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[Broker]:
    """A started broker of our own, shared by the session: use a topic and a group of your own."""
    try:
        with running_broker() as broker:
            yield broker
    except MissingError as missing:
        if os.environ.get("CI"):  # noqa: TID251 - the tests' own switch
            pytest.fail(str(missing))
        pytest.skip(str(missing))
