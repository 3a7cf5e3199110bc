"""What every log does: in memory, embedded in Redis, and real Apache Kafka."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from uuid import uuid4

import pytest

from store.buffer.ledger import Claim, LogSlot
from store.errors import LogUnavailableError, RecordTooLargeError, StoreUnavailableError
from stream.log import Batch, Headers, Health, Record, Source
from stream.outbox import partition_of
from tests.contracts.logs import MAX_RECORD_BYTES, SESSION_S, KafkaHarness, Log, Noted

DEADLINE_S = 30.0


def new_topic(log: Log, partitions: int = 4) -> str:
    topic = f"understudy.{uuid4().hex[:12]}"
    log.topics.ensure(topic, partitions)
    return topic


def write(log: Log, topic: str, values: range | list[bytes], *, keys: int = 8) -> list[bytes]:
    """Append, wait for every acknowledgement, and return the values."""
    payloads = [f"value {n}".encode() for n in values] if isinstance(values, range) else values
    acks = [log.appender.append(topic, key=b"key %d" % (n % keys), value=value) for n, value in enumerate(payloads)]
    for ack in acks:
        ack.result(DEADLINE_S)
    return payloads


def until(source: Source, ledger: Noted, enough: Callable[[], bool], *, limit: int = 100) -> list[Batch]:
    """Poll and apply until there is enough; every batch that came."""
    seen: list[Batch] = []
    deadline = time.monotonic() + DEADLINE_S
    while not enough():
        assert time.monotonic() < deadline, f"{len(ledger.applied)} records applied, and no end"
        for batch in source.poll(0.2, limit):
            seen.append(batch)
            source.done(batch, ledger.apply(batch).outcome)
    return seen


def next_batches(source: Source, limit: int = 100) -> list[Batch]:
    """The first batches that come."""
    deadline = time.monotonic() + DEADLINE_S
    while not (batches := source.poll(0.2, limit)):
        assert time.monotonic() < deadline, "no batch came"
    return batches


@contextmanager
def reading(log: Log, topic: str, ledger: Noted) -> Iterator[Source]:
    with closing(log.source(topic, ledger.claim)) as source:
        yield source


def whole(log: Log, slot: LogSlot) -> list[Record]:
    return list(log.history.read(slot, *log.history.bounds(slot)))


def test_every_record_is_read_once_and_in_order_within_its_slot(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    written = write(log, topic, range(200))
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 200, limit=7)
    assert sorted(ledger.values()) == sorted(written)
    for slot in log.history.slots(topic):
        assert [found for found in ledger.applied if found.partition == slot.partition] == whole(log, slot)


def test_a_batch_starts_where_the_one_before_it_ended_and_offsets_increase(log: Log) -> None:
    topic, ledger = new_topic(log, 2), Noted()
    write(log, topic, range(60))
    with reading(log, topic, ledger) as source:
        batches = until(source, ledger, lambda: len(ledger.applied) >= 60, limit=5)
    position = dict.fromkeys(log.history.slots(topic), "-1")
    for batch in batches:
        assert batch.start == position[batch.slot]
        offsets = [record.offset for record in batch.records]
        assert offsets == sorted(set(offsets))
        assert offsets[-1] < int(batch.next)
        assert batch.start == "-1" or int(batch.start) <= offsets[0]
        position[batch.slot] = batch.next


def test_a_poll_returns_at_most_its_limit_and_forgets_no_slot(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    write(log, topic, range(40), keys=40)
    with reading(log, topic, ledger) as source:
        deadline = time.monotonic() + DEADLINE_S
        while len(ledger.applied) < 40:
            assert time.monotonic() < deadline
            batches = source.poll(0.2, 1)
            assert sum(len(batch.records) for batch in batches) <= 1
            for batch in batches:
                source.done(batch, ledger.apply(batch).outcome)
    assert len(set(ledger.values())) == 40


def test_a_reader_that_never_waits_reads_all_the_same(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    written = write(log, topic, range(40))
    with reading(log, topic, ledger) as source:
        deadline = time.monotonic() + DEADLINE_S
        while len(ledger.applied) < 40:
            assert time.monotonic() < deadline, "it never became a member"
            for batch in source.poll(0.0, 10):
                source.done(batch, ledger.apply(batch).outcome)
            time.sleep(0.005)  # as a loop that has other work to do
    assert sorted(ledger.values()) == sorted(written)


def test_batches_may_be_settled_late_and_the_next_ones_follow_on(log: Log) -> None:
    topic, ledger = new_topic(log, 1), Noted()
    write(log, topic, range(30))
    with reading(log, topic, ledger) as source:
        first = next_batches(source, 10)
        second = next_batches(source, 10)
        assert second[0].start == first[0].next
        for batch in (*first, *second):
            source.done(batch, ledger.apply(batch).outcome)
        until(source, ledger, lambda: len(ledger.applied) >= 30)
    assert len(set(ledger.values())) == 30


def test_a_stale_fence_may_poll_but_never_write(log: Log) -> None:
    topic, ledger = new_topic(log, 1), Noted()
    written = write(log, topic, range(20))
    with reading(log, topic, ledger) as source:
        (batch, *_) = next_batches(source, 10)
        ledger.claim(batch.slot)  # somebody else's
        assert ledger.apply(batch).outcome == "fenced"
        assert ledger.applied == []
        source.done(batch, "fenced")
        # It is the only member, so the slot is still its own: it claims again and reads on from the stored position.
        until(source, ledger, lambda: len(ledger.applied) >= 20)
    assert sorted(ledger.values()) == sorted(written)


def test_a_slot_that_moved_is_claimed_again_and_read_from_the_stored_position(log: Log) -> None:
    topic, ledger = new_topic(log, 1), Noted()
    write(log, topic, range(30))
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 20, limit=10)
        (slot,) = ledger.positions
        ledger.positions[slot] = "5"  # the store was restored from an older copy
        del ledger.applied[5:]
        batches = until(source, ledger, lambda: len(ledger.applied) >= 30)
    assert any(batch.start == "5" for batch in batches)
    assert [record.offset for record in ledger.applied] == [record.offset for record in whole(log, slot)]


def test_a_new_reader_goes_on_from_the_stored_position(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    write(log, topic, range(50))
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 50)
    write(log, topic, range(50, 80))
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 80)
    assert len(set(ledger.values())) == 80


def test_a_dead_readers_slots_are_handed_over_in_order(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    written = write(log, topic, range(40))
    dead = log.source(topic, ledger.claim)
    until(dead, ledger, lambda: len(ledger.applied) >= 20, limit=5)
    unfinished = next_batches(dead, 5)  # in its hands when it dies
    log.crash(dead)
    died = time.monotonic()
    with reading(log, topic, ledger) as heir:
        until(heir, ledger, lambda: len(ledger.applied) >= 40)
        assert time.monotonic() - died < SESSION_S + 10
        assert {ledger.apply(batch).outcome for batch in unfinished} == {"fenced"}
    assert sorted(ledger.values()) == sorted(written)
    for slot in log.history.slots(topic):
        assert [found for found in ledger.applied if found.partition == slot.partition] == whole(log, slot)
    dead.close()


def test_two_readers_apply_every_record_once(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    with reading(log, topic, ledger) as one, reading(log, topic, ledger) as two:
        write(log, topic, range(40))
        deadline = time.monotonic() + DEADLINE_S
        while len(ledger.applied) < 120:
            assert time.monotonic() < deadline
            for source in (one, two):
                for batch in source.poll(0.05, 10):
                    source.done(batch, ledger.apply(batch).outcome)
            if len(ledger.applied) in {40, 80}:
                write(log, topic, range(len(ledger.applied), len(ledger.applied) + 40))
    assert len(set(ledger.values())) == 120


def test_a_recreated_topic_has_a_new_uuid_and_is_read_from_its_beginning(log: Log) -> None:
    topic, ledger = new_topic(log, 1), Noted()
    write(log, topic, range(10))
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 10)
        (old,) = log.history.slots(topic)
        log.delete(topic)
        deadline = time.monotonic() + DEADLINE_S
        while log.history.slots(topic):
            assert time.monotonic() < deadline
        log.topics.ensure(topic, 1)
        again = write(log, topic, [b"again %d" % n for n in range(25)])
        until(source, ledger, lambda: len(ledger.applied) >= 35)
    (new,) = log.history.slots(topic)
    assert new.uuid != old.uuid
    assert ledger.values()[10:] == again
    assert ledger.positions == {old: "10", new: "25"}


@pytest.mark.parametrize("stored", ["3", "11", "x"], ids=["below its beginning", "above its end", "no number"])
def test_a_position_outside_the_log_stops_its_slot_alone_until_a_person_moves_it(log: Log, stored: str) -> None:
    topic, ledger = new_topic(log, 2), Noted()
    keys = {partition_of(b"k%d" % n, 2): b"k%d" % n for n in range(20)}
    for partition in (0, 1):
        for number in range(10):
            log.appender.append(topic, key=keys[partition], value=b"%d" % number).result(DEADLINE_S)
    bad, good = log.history.slots(topic)
    log.trim(bad, 5)
    ledger.positions[bad] = stored
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 10 and bad in source.health().stopped)
        seen = ledger.fences[bad]
        until(source, ledger, lambda: ledger.fences[bad] > seen)  # looked at again: it does not go away by that
        assert {record.partition for record in ledger.applied} == {good.partition}
        assert stored in source.health().stopped[bad]
        assert source.health().faults == {}
        ledger.positions[bad] = "7"
        until(source, ledger, lambda: len(ledger.applied) >= 13)
        assert source.health().stopped == {}
    assert [record.offset for record in ledger.applied[10:]] == [7, 8, 9]


def test_what_was_read_before_the_log_lost_it_is_applied_and_only_the_rest_is_lost(log: Log) -> None:
    if isinstance(log, KafkaHarness):
        pytest.skip("its client reads ahead, so nothing is missing yet")
    topic, ledger = new_topic(log, 1), Noted()
    write(log, topic, range(5))
    with reading(log, topic, ledger) as source:
        in_hand = next_batches(source, 5)
        source.hold(None)
        write(log, topic, range(5, 30))
        (slot,) = log.history.slots(topic)
        log.trim(slot, 20)
        source.poll(0.2, 5)
        source.hold(())
        assert source.poll(0.5, 5) == []
        for batch in in_hand:
            source.done(batch, ledger.apply(batch).outcome)
        until(source, ledger, lambda: bool(source.health().stopped))
        assert "the stored position is 5, but the log begins at 20" in source.health().stopped[slot]
        ledger.positions[slot] = "20"
        until(source, ledger, lambda: len(ledger.applied) >= 15)
    assert [record.offset for record in ledger.applied] == [*range(5), *range(20, 30)]


def test_a_slot_that_was_never_read_begins_where_the_log_does(log: Log) -> None:
    topic, ledger = new_topic(log, 1), Noted()
    write(log, topic, range(10))
    (slot,) = log.history.slots(topic)
    log.trim(slot, 5)
    assert log.history.bounds(slot) == ("5", "10")
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 5)
    assert [record.offset for record in ledger.applied] == [5, 6, 7, 8, 9]


def test_hold_keeps_ownership_for_longer_than_the_session_and_reads_nothing(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    write(log, topic, range(20))
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 20)
        fences = dict(ledger.fences)
        source.hold(None)
        write(log, topic, range(20, 40))
        released = time.monotonic() + 3 * SESSION_S
        while time.monotonic() < released:
            assert source.poll(0.2, 100) == []
        source.hold(())
        until(source, ledger, lambda: len(ledger.applied) >= 40)
    assert ledger.fences == fences
    assert len(set(ledger.values())) == 40


def test_exactly_the_held_slots_are_paused(log: Log) -> None:
    topic, ledger = new_topic(log, 2), Noted()
    keys = {partition_of(b"k%d" % n, 2): b"k%d" % n for n in range(20)}
    held, free = log.history.slots(topic)
    with reading(log, topic, ledger) as source:
        source.hold([held])
        for value in (b"first", b"second"):
            for key in keys.values():
                log.appender.append(topic, key=key, value=value).result(DEADLINE_S)
        batches = until(source, ledger, lambda: len(ledger.applied) >= 2)
        assert {batch.slot for batch in batches} == {free}
        source.hold([free])
        batches = until(source, ledger, lambda: len(ledger.applied) >= 4)
        assert {batch.slot for batch in batches} == {held}


def test_key_headers_and_timestamp_survive_the_log(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    headers: Headers = (("b", b"\x00\xff"), ("a", b""), ("b", b"again"), ("ü", "é".encode()))
    value = bytes(range(256))
    log.appender.append(topic, key=b"\x00key", value=value, headers=headers, timestamp_ms=1_700_000_000_123).result(
        DEADLINE_S
    )
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 1)
    (record,) = ledger.applied
    assert (record.key, record.value, record.headers) == (b"\x00key", value, headers)
    assert record.timestamp_ms == 1_700_000_000_123
    assert record.topic == topic
    assert [found for slot in log.history.slots(topic) for found in whole(log, slot)] == [record]


def test_a_key_has_the_partition_that_kafka_gives_it(log: Log) -> None:
    topic = new_topic(log, 5)
    keys = [b"", b"a", b"21", b"foobar", b"a-little-bit-long-string", "schlüssel".encode(), bytes(range(40))]
    for key in keys:
        log.appender.append(topic, key=key, value=key).result(DEADLINE_S)
    found = {record.value: slot.partition for slot in log.history.slots(topic) for record in whole(log, slot)}
    assert found == {key: partition_of(key, 5) for key in keys}


def test_a_record_over_the_limit_is_refused_and_harms_no_other(log: Log) -> None:
    topic = new_topic(log, 1)
    with pytest.raises(RecordTooLargeError):
        log.appender.append(topic, key=b"k", value=b"x" * (MAX_RECORD_BYTES + 1)).result(DEADLINE_S)
    write(log, topic, [b"x" * (MAX_RECORD_BYTES - 100), b"small"])
    (slot,) = log.history.slots(topic)
    assert [len(record.value) for record in whole(log, slot)] == [MAX_RECORD_BYTES - 100, 5]


def test_a_topic_that_is_not_there_is_an_error_for_the_writer_and_nothing_for_a_reader(log: Log) -> None:
    with pytest.raises(LogUnavailableError):
        log.appender.append("understudy.nowhere", key=b"k", value=b"v").result(DEADLINE_S)
    assert log.history.slots("understudy.nowhere") == []
    ledger = Noted()
    with reading(log, "understudy.nowhere", ledger) as source:
        assert source.poll(0.2, 10) == []


def test_a_topic_is_made_once(log: Log) -> None:
    topic = new_topic(log, 3)
    before = log.history.slots(topic)
    log.topics.ensure(topic, 3)
    assert log.history.slots(topic) == before
    assert [slot.partition for slot in before] == [0, 1, 2]


def test_lag_counts_what_was_not_applied(log: Log) -> None:
    topic, ledger = new_topic(log, 1), Noted()
    write(log, topic, range(10))
    with reading(log, topic, ledger) as source:
        (batch, *_) = next_batches(source, 4)
        (lag,) = source.lag().values()
        assert lag.records == 10
        assert 0 <= lag.oldest_unread_s < DEADLINE_S
        source.done(batch, ledger.apply(batch).outcome)
        until(source, ledger, lambda: len(ledger.applied) >= 10)
        source.poll(0.2, 10)
        (lag,) = source.lag().values()
        assert (lag.records, lag.oldest_unread_s) == (0, 0.0)


def test_a_log_that_does_not_answer_is_said_to_be_down_and_its_lag_is_unknown(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    write(log, topic, range(20))
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 20)
        assert source.health() == Health(faults={}, stopped={})
        with log.outage():
            until(source, ledger, lambda: "log" in source.health().faults)
            with pytest.raises(LogUnavailableError):
                source.lag()
        until(source, ledger, lambda: not source.health().faults)
        write(log, topic, range(20, 40))
        until(source, ledger, lambda: len(ledger.applied) >= 40)
        source.poll(0.2, 10)
        assert sum(lag.records for lag in source.lag().values()) == 0


def test_a_store_that_does_not_answer_is_said_to_be_down(log: Log) -> None:
    topic, ledger, down = new_topic(log), Noted(), True

    def claim(slot: LogSlot) -> Claim:
        if down:
            message = "Redis is away"
            raise StoreUnavailableError(message)
        return ledger.claim(slot)

    with closing(log.source(topic, claim)) as source:
        until(source, ledger, lambda: source.health().faults == {"redis": "Redis is away"})
        down = False
        until(source, ledger, lambda: not source.health().faults)


def test_a_topic_that_is_gone_is_made_again_and_read_from_its_beginning(log: Log) -> None:
    topic, ledger = new_topic(log, 1), Noted()
    write(log, topic, range(10))
    made: list[str] = []
    allowed = False

    def remake(name: str) -> None:
        made.append(name)
        if allowed:
            log.topics.ensure(name, 2)

    with closing(log.source(topic, ledger.claim, remake=remake)) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 10)
        log.delete(topic)
        until(source, ledger, lambda: source.health().faults == {"log": f"there is no topic {topic}"})
        allowed = True
        until(source, ledger, lambda: not source.health().faults and len(log.history.slots(topic)) == 2)
        write(log, topic, range(10, 30))
        until(source, ledger, lambda: len(ledger.applied) >= 30)
    assert set(made) == {topic}
    assert sorted(ledger.values()) == sorted(b"value %d" % number for number in range(30))


def test_poll_keeps_its_time_out_while_the_log_is_down_and_loses_nothing(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    write(log, topic, range(20))
    with reading(log, topic, ledger) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 20)
        with log.outage():
            for _ in range(5):
                began = time.monotonic()
                assert source.poll(0.5, 10) == []
                assert time.monotonic() - began < 2.5
        write(log, topic, range(20, 40))
        until(source, ledger, lambda: len(ledger.applied) >= 40)
    assert len(set(ledger.values())) == 40


def test_a_reader_closes_promptly_even_while_the_log_is_down(log: Log) -> None:
    topic, ledger = new_topic(log), Noted()
    write(log, topic, range(20))
    source = log.source(topic, ledger.claim)
    until(source, ledger, lambda: len(ledger.applied) >= 20)
    with log.outage():
        began = time.monotonic()
        source.close()
        assert time.monotonic() - began < 5
