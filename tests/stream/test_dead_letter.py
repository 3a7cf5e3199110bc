"""Dead letters: unchanged, sealed, acknowledged, each origin once."""

from concurrent.futures import Future
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.buffer.ledger import LogSlot
from store.errors import LogError, LogUnavailableError, RecordTooLargeError
from store.event import Undecodable
from store.secrets import DataSecret
from stream.dead_letter import DeadLetter, DeadLetters, Letter, read_dead_letters
from stream.log import Headers, Record, dead_topic_of
from stream.memory import MemoryLog

SECRET = DataSecret(b"s" * 32)
SLOT = LogSlot("understudy.support", "uuid-1", 3)
DAY_MS = 1_700_000_000_000  # 2023-11-14


def letter(value: bytes = b"my card is 4111", offset: int = 5, timestamp_ms: int = DAY_MS) -> Letter:
    record = Record(
        topic=SLOT.topic, partition=3, offset=offset, key=b"k", value=value, headers=(), timestamp_ms=timestamp_ms
    )
    return Letter(slot=SLOT, record=record, fault=Undecodable(reason="undecodable", detail="not JSON"))


def a_log(max_record_bytes: int = 1 << 20) -> MemoryLog:
    log = MemoryLog(max_record_bytes=max_record_bytes)
    log.ensure(dead_topic_of("support"), 2)
    return log


def read(log: MemoryLog, secret: DataSecret = SECRET) -> list[DeadLetter]:
    return list(read_dead_letters(log, "support", secret))


@given(value=st.binary(max_size=200), timestamp_ms=st.integers(-(2**63), 2**63 - 1))
def test_what_is_buried_comes_back_unchanged_with_its_reason_and_origin(value: bytes, timestamp_ms: int) -> None:
    log = a_log()
    DeadLetters(log, SECRET).write("support", [letter(value, timestamp_ms=timestamp_ms)])
    (found,) = read(log)
    assert found.raw() == value
    clamped_ms = min(max(timestamp_ms, 0), 253_402_300_799_000)
    assert found.record() == replace(letter(value, timestamp_ms=clamped_ms).record, key=None)
    assert (found.reason, found.detail, found.size) == ("undecodable", "not JSON", len(value))
    assert (found.topic, found.uuid, found.partition, found.offset) == (*SLOT, 5)


def test_the_day_of_the_key_is_the_day_of_the_record() -> None:
    log = a_log()
    DeadLetters(log, SECRET).write("support", [letter()])
    (found,) = read(log)
    assert found.key_day.isoformat() == "2023-11-14"
    assert found.time.timestamp() * 1000 == DAY_MS
    with pytest.raises(LogError, match="altered"):
        replace(found, key_day=found.key_day.replace(day=15)).raw()


def test_nothing_of_the_value_lies_in_the_clear_and_no_two_seals_are_alike() -> None:
    log = a_log()
    DeadLetters(log, SECRET).write("support", [letter(offset=1), letter(offset=2)])
    records = [record for slot in log.slots(dead_topic_of("support")) for record in log.read(slot, *log.bounds(slot))]
    assert not any(b"4111" in repr(record).encode() for record in records)
    assert len({record.value for record in records}) == 2
    assert "4111" not in repr(read(log))


def test_a_letter_opens_only_under_its_own_secret_and_origin() -> None:
    log = a_log()
    DeadLetters(log, SECRET).write("support", [letter()])
    (found,) = read(log)
    for other in (
        replace(found, secret=DataSecret(b"t" * 32)),
        replace(found, offset=6),
        replace(found, sealed=found.sealed[:-1] + bytes([found.sealed[-1] ^ 1])),
        replace(found, sealed=b"short"),
    ):
        with pytest.raises(LogError, match="altered"):
            other.raw()


def test_a_letter_written_twice_is_read_once() -> None:
    log = a_log()
    letters = DeadLetters(log, SECRET)
    letters.write("support", [letter(offset=1)])
    letters.write("support", [letter(offset=1), letter(offset=2)])
    assert sorted(found.offset for found in read(log)) == [1, 2]


def test_a_record_too_large_for_the_dead_letter_topic_is_named_without_its_bytes() -> None:
    log = a_log(max_record_bytes=1000)
    DeadLetters(log, SECRET).write("support", [letter(b"x" * 2000, offset=1), letter(offset=2)])
    large, small = sorted(read(log), key=lambda found: found.offset)
    assert large.size == 2000
    with pytest.raises(RecordTooLargeError, match="support/uuid-1/3/1"):
        large.raw()
    assert small.raw() == b"my card is 4111"


def test_what_is_no_letter_of_ours_is_passed_over() -> None:
    log = a_log()
    log.append(dead_topic_of("support"), key=b"k", value=b"junk", headers=(("reason", b"\xff"),))
    DeadLetters(log, SECRET).write("support", [letter()])
    assert [found.offset for found in read(log)] == [5]


def test_there_are_no_letters_without_a_topic() -> None:
    assert list(read_dead_letters(MemoryLog(), "support", SECRET)) == []


class SilentLog:
    """Takes records and never acknowledges them."""

    def append(
        self, topic: str, *, key: bytes, value: bytes, headers: Headers = (), timestamp_ms: int | None = None
    ) -> Future[None]:
        return Future()

    def close(self) -> None:
        """Nothing to stop."""


def test_a_write_without_an_acknowledgement_fails_in_time() -> None:
    with pytest.raises(LogUnavailableError, match="acknowledge"):
        DeadLetters(SilentLog(), SECRET, ack_timeout_s=0.01).write("support", [letter()])
    with pytest.raises(LogUnavailableError):
        DeadLetters(MemoryLog(), SECRET).write("support", [letter()])
