"""A lane of `rank` beside one of `classify`, on real Kafka."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ops.brokers.kafka import kafka_settings
from stream.kafka.cluster import admin
from stream.log import dead_topic_of
from tests.kafka.broker import Broker
from tests.ops.shared_topic import two_producers_ask_one_question
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand, standing


@pytest.fixture
def stand(tmp_path: Path, redis_url: str, kafka_broker: Broker) -> Iterator[Stand]:
    log = {"kind": '"kafka"', "bootstrap": f'"{kafka_broker.bootstrap}"', "group": f'"{tmp_path.name}"'}
    with standing(tmp_path, redis_url, partitions="2", **log) as made:
        yield made
        with closing(admin(kafka_settings(made.site))) as client:
            client.delete_topics([TOPIC, dead_topic_of(LANE.use_case)])


def test_two_producers_who_offer_documents_in_another_order_ask_one_question(stand: Stand) -> None:
    two_producers_ask_one_question(stand)
