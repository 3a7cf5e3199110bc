"""What the embedded log does beyond the contract: a bounded backlog, and a Redis that comes back with less."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import pytest
import redis

from store.buffer.ledger import LogSlot
from store.buffer.server import private_redis
from store.errors import LogUnavailableError, PositionOutsideLogError
from stream.embedded.log import EmbeddedLog
from stream.embedded.source import EmbeddedSource
from stream.log import Batch, Record
from tests.contracts.logs import Noted
from tests.contracts.test_log import until

TOPIC = "understudy.support"


@pytest.fixture
def small(redis_client: redis.Redis) -> Iterator[EmbeddedLog]:
    """A log that keeps 20 kB of one partition."""
    with closing(EmbeddedLog(redis_client, capacity_bytes=20_000)) as log:
        log.ensure(TOPIC, 1)
        yield log


def append(log: EmbeddedLog, count: int, topic: str = TOPIC, size: int = 900) -> list[Future[None]]:
    return [log.append(topic, key=b"k", value=b"%d" % n + b" " * size) for n in range(count)]


def whole(log: EmbeddedLog, slot: LogSlot) -> list[Record]:
    return list(log.read(slot, *log.bounds(slot)))


def source_of(log: EmbeddedLog, ledger: Noted, lease_s: float = 0.5) -> EmbeddedSource:
    return log.source(TOPIC, owner=f"{id(ledger)}", claim=ledger.claim, lease_s=lease_s)


def test_a_full_backlog_refuses_new_records_and_keeps_every_unread_one(small: EmbeddedLog) -> None:
    refused = [ack for ack in append(small, 40) if ack.exception(10) is not None]
    assert 15 <= len(refused) <= 25
    with pytest.raises(LogUnavailableError, match="unread"):
        refused[0].result()
    (slot,) = small.slots(TOPIC)
    kept = whole(small, slot)
    assert [int(record.value) for record in kept] == list(range(40 - len(refused)))


def test_records_that_were_read_make_room_for_new_ones(small: EmbeddedLog) -> None:
    ledger = Noted()
    for ack in append(small, 15):
        ack.result(10)
    with closing(source_of(small, ledger)) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 15)
    for ack in append(small, 15):
        ack.result(10)
    (slot,) = small.slots(TOPIC)
    begin, end = small.bounds(slot)
    assert 0 < int(begin) <= 15
    assert end == "30"
    with closing(source_of(small, ledger)) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 30)
    assert [record.offset for record in ledger.applied] == list(range(30))


def test_dead_letters_give_way_oldest_first_because_nobody_says_that_they_were_read(small: EmbeddedLog) -> None:
    topic = f"{TOPIC}.dead"
    small.ensure(topic, 1)
    for ack in append(small, 60, topic):
        ack.result(10)
    (slot,) = small.slots(topic)
    begin, end = small.bounds(slot)
    assert end == "60"
    kept = whole(small, slot)
    assert 15 <= len(kept) <= 25
    assert kept[-1].offset == 59
    with pytest.raises(PositionOutsideLogError):
        list(small.read(slot, str(int(begin) - 1), end))


def test_a_record_that_never_fits_is_refused_and_empties_nothing(small: EmbeddedLog) -> None:
    ledger = Noted()
    for ack in append(small, 5):
        ack.result(10)
    with closing(source_of(small, ledger)) as source:
        until(source, ledger, lambda: len(ledger.applied) >= 5)
    with pytest.raises(LogUnavailableError):
        append(small, 1, size=30_000)[0].result(10)
    (slot,) = small.slots(TOPIC)
    assert len(whole(small, slot)) == 5


def test_records_that_wait_together_are_appended_together_and_in_order(redis_client: redis.Redis) -> None:
    with closing(EmbeddedLog(redis_client)) as log:
        log.ensure(TOPIC, 1)
        log.ensure("understudy.other", 1)
        redis_client.config_resetstat()  # the server has served other tests before
        acks = [
            log.append(topic, key=b"k", value=b"%d" % n) for n in range(3000) for topic in (TOPIC, "understudy.other")
        ]
        for ack in acks:
            ack.result(20)
        for topic in (TOPIC, "understudy.other"):
            (slot,) = log.slots(topic)
            assert [int(record.value) for record in whole(log, slot)] == list(range(3000))
        stats = redis_client.info("commandstats")
        assert isinstance(stats, dict)
        assert stats["cmdstat_evalsha"]["calls"] < 3000  # of 6000 records, however busy the machine is


def test_a_log_that_lost_its_tail_is_noticed_while_reading_on(redis_client: redis.Redis) -> None:
    with closing(EmbeddedLog(redis_client)) as log:
        log.ensure(TOPIC, 1)
        ledger = Noted()
        for ack in append(log, 20):
            ack.result(10)
        with closing(source_of(log, ledger)) as source:
            until(source, ledger, lambda: len(ledger.applied) >= 20)
            (slot,) = log.slots(TOPIC)
            state = f"log:{{{TOPIC}}}:{slot.uuid}"
            redis_client.delete(f"{state}:0")  # as if Redis came back from an older copy, but the ledger did not
            redis_client.hset(state, "end:0", "0")
            for ack in append(log, 5):
                ack.result(10)
            until(source, ledger, lambda: "ends at 5" in source.health().stopped.get(slot, ""))


def test_records_trimmed_under_a_reader_stop_it_and_are_no_jump(redis_client: redis.Redis) -> None:
    with closing(EmbeddedLog(redis_client)) as log:
        log.ensure(TOPIC, 1)
        ledger = Noted()
        for ack in append(log, 20):
            ack.result(10)
        with closing(source_of(log, ledger, lease_s=30.0)) as source:
            until(source, ledger, lambda: len(ledger.applied) >= 5, limit=5)
            (slot,) = log.slots(TOPIC)
            redis_client.xtrim(f"log:{{{TOPIC}}}:{slot.uuid}:0", minid="11-0", approximate=False)
            until(source, ledger, lambda: "is 5, but the log begins at 10" in source.health().stopped.get(slot, ""))
            assert len(ledger.applied) == 5


def test_the_log_survives_a_redis_that_is_killed_and_started_again(tmp_path: Path) -> None:
    with private_redis(tmp_path) as url:
        client = redis.Redis.from_url(url)
        log = EmbeddedLog(client)
        log.ensure(TOPIC, 2)
        for ack in append(log, 50):
            ack.result(10)
        ledger = Noted()
        source = source_of(log, ledger)
        until(source, ledger, lambda: len(ledger.applied) >= 20, limit=10)
        info = client.info("server")
        assert isinstance(info, dict)
    with pytest.raises(LogUnavailableError):
        append(log, 1)[0].result(10)
    began = time.monotonic()
    assert source.poll(0.3, 10) == []
    assert 0.2 < time.monotonic() - began < 2
    with private_redis(tmp_path):
        for ack in append(log, 10):
            ack.result(10)
        until(source, ledger, lambda: len(ledger.applied) >= 60)
        assert sorted(int(value) for value in ledger.values()) == sorted([*range(50), *range(10)])
        source.close()
        log.close()
        client.close()


def test_a_fenced_slot_is_not_claimed_again_at_once_or_two_readers_would_duel(redis_client: redis.Redis) -> None:
    with closing(EmbeddedLog(redis_client)) as log:
        log.ensure(TOPIC, 1)
        ledger = Noted()
        append(log, 5)[-1].result(10)
        with closing(source_of(log, ledger, lease_s=300.0)) as source:
            (batch,) = until_polled(source)
            source.done(batch, "fenced")
            assert source.poll(0.3, 10) == []
            assert ledger.fences == {batch.slot: 1}
            source._next_lease = 0.0  # a third of the lease's time later
            (after,) = until_polled(source)
            assert (after.fence, after.start) == (2, "-1")


def test_a_lease_is_neither_taken_from_who_holds_it_nor_given_back_by_another(redis_client: redis.Redis) -> None:
    with closing(EmbeddedLog(redis_client)) as log:
        log.ensure(TOPIC, 2)
        ledgers = [Noted(), Noted(), Noted()]
        append(log, 5)[-1].result(10)
        with closing(source_of(log, ledgers[0], lease_s=300.0)) as holder:
            until_polled(holder)
            with closing(source_of(log, ledgers[1], lease_s=300.0)) as standby:
                assert standby.poll(0.1, 10) == []
            with closing(source_of(log, ledgers[2], lease_s=300.0)) as another:
                assert another.poll(0.1, 10) == []
        assert [len(ledger.fences) for ledger in ledgers] == [2, 0, 0]
        with closing(source_of(log, ledgers[2], lease_s=300.0)) as heir:  # the holder has given them back
            until_polled(heir)
        assert len(ledgers[2].fences) == 2


def test_a_history_that_is_trimmed_while_it_is_read_is_no_jump(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.embedded.log._READ_COUNT", 5)
    with closing(EmbeddedLog(redis_client)) as log:
        log.ensure(TOPIC, 1)
        append(log, 20)[-1].result(10)
        (slot,) = log.slots(TOPIC)
        reading = log.read(slot, *log.bounds(slot))
        assert [next(reading).offset for _ in range(5)] == [0, 1, 2, 3, 4]
        redis_client.xtrim(f"log:{{{TOPIC}}}:{slot.uuid}:0", minid="11-0", approximate=False)
        with pytest.raises(PositionOutsideLogError, match="is 5, but the log begins at 10"):
            next(reading)


def until_polled(source: EmbeddedSource) -> list[Batch]:
    """The first batches that come."""
    deadline = time.monotonic() + 20
    while not (batches := source.poll(0.2, 10)):
        assert time.monotonic() < deadline
    return batches
