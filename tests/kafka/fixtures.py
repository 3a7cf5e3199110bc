"""A real Kafka as the fixture `kafka_broker`.

A folder's conftest.py takes it by `from tests.kafka.fixtures import kafka_broker`, named in its `__all__`; however many
do, one broker serves the session. Without Java or Maven the tests skip at a desk and fail where CI is set.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from kafka.net.inet import KafkaNetSocket

from ops.brokers.kafka import kafka_settings
from stream.kafka.cluster import admin
from stream.log import dead_topic_of
from tests.kafka.broker import Broker, MissingError, running_broker
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand, standing

_SHARED: Final = pytest.StashKey[Broker]()


@pytest.fixture(scope="session")
def kafka_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A started broker, shared by the session: use a topic and a group of your own, and leave it running."""
    if (shared := request.config.stash.get(_SHARED, None)) is not None:
        yield shared
        return
    try:
        with running_broker() as broker:
            request.config.stash[_SHARED] = broker
            yield broker
            del request.config.stash[_SHARED]
    except MissingError as missing:
        no_kafka(missing)


@contextmanager
def standing_on_kafka(folder: Path, redis_url: str, broker: Broker, **settings: str) -> Iterator[Stand]:
    """A stand whose log is the broker, of two partitions where nothing is said; its topics go when it does."""
    log = {"kind": '"kafka"', "bootstrap": f'"{broker.bootstrap}"', "group": f'"{folder.name}"'}
    with standing(folder, redis_url, **{"partitions": "2", **settings, **log}) as made:
        yield made
        with closing(admin(kafka_settings(made.site))) as client:
            client.delete_topics([TOPIC, dead_topic_of(LANE.use_case)])


@pytest.fixture
def stand(tmp_path: Path, redis_url: str, kafka_broker: Broker) -> Iterator[Stand]:
    """One with the settings that a stand has."""
    with standing_on_kafka(tmp_path, redis_url, kafka_broker) as made:
        yield made


@pytest.fixture
def tidy_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """kafka-python leaves the socket of a failed connection to the collector: a ResourceWarning in some later test."""
    connect = KafkaNetSocket.sock_connect

    async def connect_or_close(self: Any, net: Any, sock: socket.socket, address: Any, timeout_at: Any = None) -> Any:
        try:
            return await connect(self, net, sock, address, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise

    monkeypatch.setattr(KafkaNetSocket, "sock_connect", connect_or_close)


def no_kafka(missing: MissingError) -> None:
    """Skip at a desk, fail in CI."""
    if os.environ.get("CI"):  # noqa: TID251 - the tests' own switch
        pytest.fail(str(missing))
    pytest.skip(str(missing))
