"""What `understudy doctor` finds of a real Kafka: each once."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from ops.brokers.kafka import kafka_settings
from ops.doctor.finding import Finding, Visit
from ops.doctor.log import kafka, lag
from ops.open_log import ensure_topics
from stream.kafka.cluster import admin
from stream.log import dead_topic_of
from tests.kafka.broker import Broker
from tests.kafka.fixtures import standing_on_kafka
from tests.ops.sites import LANE, make_site, open_site
from tests.ops.stand import TOPIC, Stand, until

HOUR_S = 3600.0


@pytest.fixture
def stand(tmp_path: Path, redis_url: str, kafka_broker: Broker) -> Iterator[Stand]:
    with standing_on_kafka(tmp_path, redis_url, kafka_broker, partitions="1") as made:
        yield made


def look(stand: Stand, *, outage_h: float = 1.0) -> list[Finding]:
    """What is not fine."""
    visit = Visit(site=stand.site, outage_s=outage_h * HOUR_S, ask_teacher=False)
    return [one for one in kafka(visit) if one.level != "ok"]


def config(stand: Stand, **values: str) -> None:
    """Set what a topic is told, as an operator does."""
    changes = {name.replace("_", "."): value for name, value in values.items()}
    with closing(admin(kafka_settings(stand.site))) as client:
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, TOPIC, configs=changes)])


def test_retention_copies_size_and_policy_are_looked_at(stand: Stand) -> None:
    found = look(stand)
    assert {(one.level, "it has one copy" in one.why) for one in found} == {("warning", True)}
    assert len(found) == 2, "of the dead letters, too"
    week = [one for one in look(stand, outage_h=200.0) if one.level == "fault"]
    assert "records are deleted after 168.0 h" in week[0].why
    assert f"retention.ms={200 * 3_600_000}" in str(week[0].mend)

    config(stand, retention_bytes="1000000", cleanup_policy="compact", max_message_bytes="1000")
    until(lambda: len([one for one in look(stand) if one.level == "fault"]) == 2)
    told = {str(one.mend).rpartition(" ")[2].partition("=")[0]: one.level for one in look(stand)}
    assert (told["retention.bytes"], told["cleanup.policy"]) == ("warning", "fault")
    assert told["max.message.bytes"] == "fault"


def test_a_topic_that_is_gone_a_lag_and_a_position_outside_the_log_are_told(stand: Stand) -> None:
    visit = Visit(site=stand.site, outage_s=HOUR_S, ask_teacher=False)
    stand.send(5, questions=5)
    assert "5 records are not read yet" in next(iter(lag(visit))).why
    with stand.ingesting():
        until(lambda: stand.counters.counted == 5)
    assert [one.level for one in lag(visit)] == ["ok"]
    stand.send(5, questions=5)
    with closing(admin(kafka_settings(stand.site))) as client:
        client.delete_records({TopicPartition(TOPIC, 0): 8})
        (found,) = lag(visit)
        assert (found.level, "understudy ingest skip" in str(found.mend)) == ("fault", True)
        client.delete_topics([dead_topic_of(LANE.use_case)])
        until(lambda: any("there is no topic" in one.why for one in look(stand)))
    ensure_topics(stand.site, stand.client)


def test_a_broker_that_is_not_there_is_a_fault(tmp_path: Path, tidy_sockets: None) -> None:
    site = open_site(make_site(tmp_path / "site", kind='"kafka"', bootstrap='"127.0.0.1:9"'))
    (found,) = kafka(Visit(site=site, outage_s=HOUR_S, ask_teacher=False))
    assert (found.level, "Kafka" in found.why) == ("fault", True)
