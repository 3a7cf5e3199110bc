"""The member's own decisions, with a consumer that does at once what Kafka does seldom."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import KafkaError, OffsetOutOfRangeError

from stream.kafka import appender as appender_module
from stream.kafka import member as member_module
from stream.kafka import source as source_module
from stream.kafka.appender import KafkaAppender
from stream.kafka.cluster import KafkaSettings
from stream.kafka.member import Change, Member
from stream.kafka.source import KafkaSource
from stream.log import Batch
from tests.contracts.logs import Noted

TOPIC = "understudy.support"
SETTINGS = KafkaSettings(bootstrap="127.0.0.1:1")
DEADLINE_S = 20.0


@dataclass
class Consumer:
    """A member with one partition, as the source sees it."""

    records: list[int] = field(default_factory=lambda: list(range(20)))  # the offsets that the log has
    uuid: str | None = "one"
    proves: bool = True
    at: int = 0
    parked: set[int] = field(default_factory=set)
    news: list[Change] = field(default_factory=lambda: [("+", 0)])
    gives: list[list[int]] = field(default_factory=list)  # what the next fetches give, whatever was sought
    on_fetch: Callable[[], None] = lambda: None
    resumed: list[tuple[str | None, int]] = field(default_factory=list)  # (uuid, offset) at each resume
    proofs: int = 0
    committed: list[dict[int, int]] = field(default_factory=list)

    def changes(self) -> list[Change]:
        news, self.news = self.news, []
        return news

    def assigned(self) -> set[int]:
        return {0}

    def fetch(self, timeout_s: float, limit: int) -> dict[int, list[Any]]:
        if self.parked:
            return {}
        if self.gives:
            found = self.gives.pop(0)
        else:
            if self.records and self.at < self.records[0]:
                raise OffsetOutOfRangeError({f"TopicPartition(topic='{TOPIC}', partition=0)": self.at})
            found = [offset for offset in self.records if offset >= self.at][:limit]
        self.at = found[-1] + 1 if found else self.at
        self.on_fetch()
        return {0: [message(offset, f"{self.uuid} {offset}") for offset in found]} if found else {}

    def present_uuid(self) -> str | None:
        return self.uuid

    def bounds(self, partition: int) -> tuple[int, int]:
        return (self.records[0], self.records[-1] + 1) if self.records else (0, 0)

    def ends(self, partitions: Collection[int]) -> dict[int, int]:
        return {number: self.bounds(number)[1] for number in partitions}

    def end(self, partition: int) -> int | None:
        return self.bounds(partition)[1]

    def position(self, partition: int) -> int:
        return self.at

    def seek(self, partition: int, offset: int) -> bool:
        self.at = offset
        return True

    def park(self, partition: int) -> None:
        self.parked, self.at = {0}, 0

    def pause(self, partitions: set[int]) -> None:
        if self.parked and not partitions:
            self.resumed.append((self.uuid, self.at))
        self.parked = set(partitions)

    def paused(self) -> set[int]:
        return self.parked

    def prove(self, partition: int, offset: int) -> bool:
        self.proofs += 1
        return self.proves

    def commit_later(self, offsets: Mapping[int, int]) -> bool:
        self.committed.append(dict(offsets))
        return True

    def leave(self, offsets: Mapping[int, int]) -> None:
        self.committed.append(dict(offsets))


def message(offset: int, value: str) -> SimpleNamespace:
    """A consumer's record."""
    return SimpleNamespace(
        topic=TOPIC, partition=0, offset=offset, key=b"k", value=value.encode(), headers=[], timestamp=1
    )


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Consumer:
    made = Consumer(parked={0})
    connecting = SimpleNamespace(wait=lambda _: made, cancel=lambda: None, trouble="")
    monkeypatch.setattr(source_module, "Connecting", lambda *_: connecting)
    monkeypatch.setattr(source_module, "_SLICE_S", 0.01)
    return made


@pytest.fixture
def ledger() -> Noted:
    return Noted()


@pytest.fixture
def source(consumer: Consumer, ledger: Noted) -> Iterator[KafkaSource]:
    with closing(KafkaSource(SETTINGS, TOPIC, ledger.claim)) as made:
        yield made


def polled(source: KafkaSource, limit: int = 5) -> list[Batch]:
    """The first batches that come."""
    deadline = time.monotonic() + DEADLINE_S
    while not (batches := source.poll(0.05, limit)):
        assert time.monotonic() < deadline, source.health()
    return batches


def until(source: KafkaSource, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, source.health()
        assert source.poll(0.02, 5) == []


def test_nothing_is_read_before_the_claim_and_reading_begins_at_its_position(
    source: KafkaSource, consumer: Consumer, ledger: Noted
) -> None:
    (batch,) = polled(source)
    assert [record.offset for record in batch.records] == [0, 1, 2, 3, 4]
    assert consumer.resumed == [("one", 0)]
    assert ledger.fences == {batch.slot: 1}


def test_records_below_the_read_offset_are_never_taken(source: KafkaSource, consumer: Consumer, ledger: Noted) -> None:
    """A rebalance may park the partition at 0 while a fetch is under way: it is claimed again, and read from there."""
    (batch,) = polled(source)
    source.done(batch, ledger.apply(batch).outcome)
    consumer.gives = [[0, 1, 2, 3, 4, 5, 6]]
    (after,) = polled(source)
    assert (after.start, after.records[0].offset) == ("5", 5)
    assert ledger.fences[batch.slot] == 2
    assert ledger.apply(after).outcome == "ok"


def test_the_uuid_is_asked_for_before_a_partition_is_resumed(
    source: KafkaSource, consumer: Consumer, ledger: Noted
) -> None:
    (batch,) = polled(source)
    source.done(batch, ledger.apply(batch).outcome)
    source.hold(None)
    until(source, lambda: consumer.parked)
    consumer.uuid = "two"
    source.hold(())
    (after,) = polled(source)
    assert (after.slot.uuid, after.start, after.records[0].offset) == ("two", "-1", 0)
    assert consumer.resumed == [("one", 0), ("two", 0)]


def test_what_was_fetched_while_the_topic_was_made_anew_is_not_taken(
    source: KafkaSource, consumer: Consumer, ledger: Noted
) -> None:
    (batch,) = polled(source)
    source.done(batch, ledger.apply(batch).outcome)
    consumer.on_fetch = lambda: setattr(consumer, "uuid", "two")  # after the records, before they are looked at
    (after,) = polled(source)
    assert (after.slot.uuid, after.start, after.records[0].value) == ("two", "-1", b"two 0")


def test_a_fenced_slot_is_claimed_again_only_once_a_commit_has_proved_that_it_is_ours(
    source: KafkaSource, consumer: Consumer, ledger: Noted
) -> None:
    consumer.proves = False  # a zombie: the group has given its partition away
    (batch,) = polled(source)
    source.done(batch, "fenced")
    until(source, lambda: consumer.proofs >= 2)
    assert ledger.fences[batch.slot] == 1
    assert consumer.parked
    consumer.proves = True
    (after,) = polled(source)
    assert ledger.fences[batch.slot] == 2
    assert after.start == "-1"


def test_a_moved_slot_is_claimed_again_at_once(source: KafkaSource, consumer: Consumer, ledger: Noted) -> None:
    (batch,) = polled(source)
    ledger.positions[batch.slot] = "3"
    source.done(batch, ledger.apply(batch).outcome)
    (after,) = polled(source)
    assert (after.start, after.records[0].offset, consumer.proofs) == ("3", 3, 0)


def test_a_gap_that_retention_left_stops_the_partition_and_is_no_jump(
    source: KafkaSource, consumer: Consumer, ledger: Noted
) -> None:
    (batch,) = polled(source)
    consumer.records = list(range(10, 20))
    until(source, lambda: consumer.parked)
    assert not source.health().stopped  # what is in hand is applied first
    source.done(batch, ledger.apply(batch).outcome)
    until(source, lambda: "is 5, but the log begins at 10" in source.health().stopped.get(batch.slot, ""))
    assert ledger.positions == {batch.slot: "5"}


def test_what_was_fetched_is_fetched_again_where_the_broker_could_not_say_which_topic_it_is(
    source: KafkaSource, consumer: Consumer, ledger: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch,) = polled(source)
    source.done(batch, ledger.apply(batch).outcome)
    answers = iter([KafkaError("busy")])

    def present_uuid() -> str:
        for error in answers:
            raise error
        return "one"

    monkeypatch.setattr(consumer, "present_uuid", present_uuid)
    (after,) = polled(source)
    assert (after.start, after.records[0].offset) == ("5", 5)


def test_a_partition_that_was_taken_away_is_dropped_with_its_fence(
    source: KafkaSource, consumer: Consumer, ledger: Noted
) -> None:
    (batch,) = polled(source)
    consumer.news = [("-", 0)]
    until(source, lambda: not source.lag())
    source.done(batch, "ok")
    consumer.news = [("+", 0)]
    (after,) = polled(source)
    assert (after.fence, after.start) == (2, "-1")


def test_what_is_committed_is_what_was_applied_and_not_what_was_read(source: KafkaSource, consumer: Consumer) -> None:
    consumer.records = list(range(15))
    (first,), (second,) = polled(source), polled(source)
    assert (first.next, second.next) == ("5", "10")
    assert not [offsets for offsets in consumer.committed if offsets.get(0)]
    source.done(first, "ok")
    polled(source)
    until(source, lambda: {0: 5} in consumer.committed)  # in half a second, without an end of anything
    source.done(second, "ok")
    source.close()
    assert max(offsets.get(0, 0) for offsets in consumer.committed) == 10  # a third batch was read, and not applied


def told(monkeypatch: pytest.MonkeyPatch, module: Any) -> dict[str, Any]:
    """What the client of a module is told, once it connects."""
    said: dict[str, Any] = {}

    def connected(kind: Any, settings: KafkaSettings, **options: Any) -> Any:
        said.update(options)
        return SimpleNamespace(
            send=lambda *_, **__: SimpleNamespace(add_callback=lambda f: f(None), add_errback=lambda _: None),
            subscribe=lambda *_, **__: None,
            close=lambda **_: None,
        )

    monkeypatch.setattr(module, "connected", connected)
    return said


def test_a_record_is_acknowledged_only_by_all_replicas_and_keeps_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    said = told(monkeypatch, appender_module)
    with closing(KafkaAppender(SETTINGS)) as made:
        made.append(TOPIC, key=b"k", value=b"v").result(10)
    assert said["acks"] == "all"
    assert said["max_in_flight_requests_per_connection"] == 1
    assert said["enable_idempotence"] is False
    assert said["allow_auto_create_topics"] is False


def test_a_consumer_neither_jumps_nor_commits_by_itself_nor_sees_what_was_aborted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = told(monkeypatch, member_module)
    monkeypatch.setattr(member_module, "admin", lambda _: None)
    Member(SETTINGS, TOPIC)
    assert said["auto_offset_reset"] == "none"
    assert said["enable_auto_commit"] is False
    assert said["isolation_level"] == "read_committed"
    assert said["allow_auto_create_topics"] is False


def test_an_append_is_done_only_once_the_producer_heard_so(monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks: list[Callable[[object], None]] = []
    sent = SimpleNamespace(add_callback=callbacks.append, add_errback=lambda _: None)
    producer = SimpleNamespace(send=lambda *_, **__: sent, close=lambda **_: None)
    monkeypatch.setattr(appender_module, "connected", lambda *_, **__: producer)
    with closing(KafkaAppender(SETTINGS)) as made:
        ack = made.append(TOPIC, key=b"k", value=b"v")
        deadline = time.monotonic() + DEADLINE_S
        while not callbacks:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert not ack.done()
        callbacks[0](None)
        ack.result(10)
