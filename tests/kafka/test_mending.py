"""Kafka deletes what was not read, or a topic is deleted: ingest stands still or goes on, and says which."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import TopicPartition

from ops.brokers.kafka import kafka_settings
from ops.repair.command import skip_site
from stream.kafka.cluster import admin
from stream.log import dead_topic_of
from tests.kafka.broker import Broker
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand, standing, until


@pytest.fixture
def stand(tmp_path: Path, redis_url: str, kafka_broker: Broker) -> Iterator[Stand]:
    log = {"kind": '"kafka"', "bootstrap": f'"{kafka_broker.bootstrap}"', "group": f'"{tmp_path.name}"'}
    with standing(tmp_path, redis_url, partitions="2", **log) as made:
        yield made
        with closing(admin(kafka_settings(made.site))) as client:
            client.delete_topics([TOPIC, dead_topic_of(LANE.use_case)])


def test_records_that_kafka_deleted_unread_wait_for_a_person_and_a_deleted_topic_does_not(stand: Stand) -> None:
    with stand.ingesting() as ingest:
        stand.send(14, questions=14)
        until(lambda: stand.counters.counted == 14 and ingest.ready)
    stand.send(56, questions=14)
    at = {slot.partition: int(position) for slot, position in stand.buffer.positions(LANE.use_case).items()}
    with closing(admin(kafka_settings(stand.site))) as client:
        client.delete_records({TopicPartition(TOPIC, 0): at[0] + 3})
        with stand.ingesting() as ingest:
            until(lambda: stand.metric("ingest_stopped_partitions") == 1)
            until(lambda: stand.metric("ingest_lag_records", partition="1") == 0)
            assert not ingest.ready
            (done,) = skip_site(stand.site, "support", None, to="beginning", dry_run=False, who="me", why="a test")
            assert (done.never_read, done.to) == (3, str(at[0] + 3))
            until(lambda: stand.counters.counted == 67 and ingest.ready)
            report = stand.verify()
            assert (report.ok, report.complete, len(report.skipped)) == (True, False, 1)

            client.delete_topics([TOPIC])
            until(lambda: not ingest.ready)
            until(lambda: ingest.ready)  # made again, with the settings' partitions
            stand.send(14, questions=14)
            until(lambda: stand.counters.counted == 81)
