"""Kafka deletes what was not read, or a topic is deleted: ingest stands still or goes on, and says which."""

from contextlib import closing

from kafka import TopicPartition

from ops.brokers.kafka import kafka_settings
from ops.repair.command import skip_site
from stream.kafka.cluster import admin
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand, until


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
