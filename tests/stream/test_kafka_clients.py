"""What Kafka's clients are told, and how a topic is read outside any group; no broker is needed for that."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from store.buffer.ledger import LogSlot
from store.errors import LogUnavailableError, PositionOutsideLogError
from stream.kafka import appender as appender_module
from stream.kafka import cluster as cluster_module
from stream.kafka import member as member_module
from stream.kafka.appender import KafkaAppender
from stream.kafka.cluster import KafkaHistory, KafkaSettings, KafkaTopics, record_of
from stream.kafka.member import Member

TOPIC = "understudy.support"
SETTINGS = KafkaSettings(
    bootstrap="one:9092,two:9092",
    group="ours",
    session_timeout_ms=7_000,
    max_record_bytes=500_000,
    replication_factor=3,
)
SLOT = LogSlot(TOPIC, "uuid", 0)
PARTITION = TopicPartition(TOPIC, 0)


@dataclass
class Broker:
    """What a broker says to an admin client and to a consumer of one partition."""

    uuid: str = "uuid"
    begin: int = 2
    fetched: list[list[int]] = field(default_factory=lambda: [[2, 3], [4], [6, 7]])  # 5 is a transaction's marker
    told: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    at: int = 0
    on_fetch: Callable[[], None] = lambda: None

    def client(self, kind: Any, settings: KafkaSettings, **options: Any) -> "Broker":
        self.told |= options
        return self

    def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
        return [{"error_code": 0, "topic_id": self.uuid, "partitions": [0]}]

    def create_topics(self, wanted: dict[str, Any], **_: object) -> None:
        self.made |= wanted

    def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.begin)

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 8)

    def assign(self, partitions: list[TopicPartition]) -> None:
        assert partitions == [PARTITION]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.at = offset

    def poll(self, _: int) -> dict[TopicPartition, list[Any]]:
        found = [offset for offset in self.fetched.pop(0) if offset >= self.at] if self.fetched else []
        self.at = max(self.at, *(offset + 1 for offset in found), 6 if 4 in found else 0) if found else self.at
        self.on_fetch()
        return {PARTITION: [message(offset) for offset in found]}

    def position(self, partition: TopicPartition) -> int:
        return self.at

    def subscribe(self, *_: object, **__: object) -> None:
        """Nobody joins."""

    def close(self, **_: object) -> None:
        """Nothing is held."""


def message(offset: int, value: bytes | None = b"v") -> SimpleNamespace:
    return SimpleNamespace(
        topic=TOPIC, partition=0, offset=offset, key=None, value=value, headers=[("h", None)], timestamp=7
    )


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    for module in (cluster_module, member_module, appender_module):
        monkeypatch.setattr(module, "connected", made.client)
    return made


def test_every_client_notices_a_topic_that_was_made_anew_within_seconds_and_comes_back_as_soon() -> None:
    said = SETTINGS.client()
    assert said["bootstrap_servers"] == ["one:9092", "two:9092"]
    assert said["metadata_max_age_ms"] <= 10_000
    assert said["reconnect_backoff_max_ms"] <= 1_000


def test_a_member_lives_and_dies_by_the_settings_and_is_waited_for_in_a_rebalance_as_long_as_a_minute(
    broker: Broker,
) -> None:
    Member(SETTINGS, TOPIC)
    assert (broker.told["group_id"], broker.told["session_timeout_ms"]) == ("ours", 7_000)
    assert broker.told["heartbeat_interval_ms"] * 3 <= 7_000
    assert broker.told["max_poll_interval_ms"] == 60_000


def test_a_topic_is_made_with_as_many_copies_and_for_as_large_records_as_the_settings_say(broker: Broker) -> None:
    KafkaTopics(SETTINGS).ensure(TOPIC, 6)
    made = broker.made[TOPIC]
    assert (made["num_partitions"], made["replication_factor"]) == (6, 3)
    assert int(made["configs"]["max.message.bytes"]) > SETTINGS.max_record_bytes


def test_who_reads_a_topic_again_neither_jumps_nor_commits_nor_sees_what_was_aborted(broker: Broker) -> None:
    with closing(KafkaHistory(SETTINGS)):
        said = broker.told
    assert (said["group_id"], said["enable_auto_commit"]) == (None, False)
    assert (said["auto_offset_reset"], said["isolation_level"]) == ("none", "read_committed")
    assert said["allow_auto_create_topics"] is False


@pytest.mark.parametrize(
    ("start", "end", "offsets"),
    [("2", "8", [2, 3, 4, 6, 7]), ("2", "7", [2, 3, 4, 6]), ("3", "5", [3, 4]), ("-1", "3", [2])],
)
def test_a_topic_is_read_from_one_position_up_to_another_over_what_is_no_record(
    broker: Broker, start: str, end: str, offsets: list[int]
) -> None:
    with closing(KafkaHistory(SETTINGS)) as history:
        assert history.bounds(SLOT) == ("2", "8")
        assert [record.offset for record in history.read(SLOT, start, end)] == offsets


def test_what_retention_has_taken_is_said_and_not_stepped_over(broker: Broker) -> None:
    with closing(KafkaHistory(SETTINGS)) as history, pytest.raises(PositionOutsideLogError, match="begins at 2"):
        list(history.read(SLOT, "1", "8"))


def test_what_was_read_while_the_topic_was_made_anew_is_not_the_whole(broker: Broker) -> None:
    broker.on_fetch = lambda: setattr(broker, "uuid", "another" if broker.at == 8 else "uuid")
    with closing(KafkaHistory(SETTINGS)) as history, pytest.raises(LogUnavailableError, match="made anew"):
        list(history.read(SLOT, "2", "8"))


def test_a_record_without_a_value_is_an_empty_one() -> None:
    found = record_of(message(3, None))
    assert (found.value, found.headers, found.offset, found.timestamp_ms) == (b"", (("h", b""),), 3, 7)


def test_no_more_is_handed_to_a_producer_than_its_memory_is_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def send(_: str, *, value: bytes, **__: object) -> SimpleNamespace:
        sent.append(value)
        return SimpleNamespace(add_callback=lambda _: None, add_errback=lambda _: None)  # never acknowledged

    monkeypatch.setattr(
        appender_module, "connected", lambda *_, **__: SimpleNamespace(send=send, close=lambda **_: None)
    )
    monkeypatch.setattr(appender_module, "_MAX_IN_FLIGHT", 2)
    appender = KafkaAppender(SETTINGS)
    acks = [appender.append(TOPIC, key=b"k", value=bytes([number])) for number in range(3)]
    with pytest.raises(LogUnavailableError, match="2 records wait"):
        acks[2].result(20)
    assert sent == [b"\x00", b"\x01"]
    appender.close()
    for ack in acks[:2]:
        with pytest.raises(LogUnavailableError, match="before the record was acknowledged"):
            ack.result(20)
