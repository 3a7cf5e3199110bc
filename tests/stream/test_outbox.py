"""The queue in front of a log."""

import threading
import warnings

import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers

from store.errors import LogUnavailableError
from stream.outbox import Outbox, Outgoing, partition_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the library reads its schemas by a deprecated call
    from kafka.partitioner.default import murmur2


def outgoing(value: bytes) -> Outgoing:
    return Outgoing(topic="t", key=b"k", value=value, headers=(), timestamp_ms=0)


@given(key=binary(max_size=70), partitions=integers(1, 100))
def test_a_partition_is_the_one_that_kafkas_partitioner_chooses(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


def test_records_that_wait_are_sent_together_and_in_order() -> None:
    busy, go_on = threading.Event(), threading.Event()
    calls: list[list[bytes]] = []

    def send(taken: list[Outgoing]) -> None:
        calls.append([one.value for one in taken])
        busy.set()
        assert go_on.wait(10)
        for one in taken:
            one.done.set_result(None)

    outbox = Outbox(send, max_waiting=100, max_batch=3, tick_s=60)
    acks = [outbox.put(outgoing(b"0"))]
    assert busy.wait(10)
    acks += [outbox.put(outgoing(b"%d" % n)) for n in range(1, 6)]
    go_on.set()
    for ack in acks:
        ack.result(10)
    outbox.close(10)
    assert [call for call in calls if call] == [[b"0"], [b"1", b"2", b"3"], [b"4", b"5"]]


def test_a_full_queue_refuses_at_once_and_a_cancelled_record_is_not_sent() -> None:
    busy, go_on = threading.Event(), threading.Event()
    sent: list[bytes] = []

    def send(taken: list[Outgoing]) -> None:
        busy.set()
        assert go_on.wait(10)
        for one in taken:
            sent.append(one.value)
            one.done.set_result(None)

    outbox = Outbox(send, max_waiting=2, max_batch=10, tick_s=60)
    outbox.put(outgoing(b"a"))
    assert busy.wait(10)
    kept, cancelled = outbox.put(outgoing(b"b")), outbox.put(outgoing(b"c"))
    with pytest.raises(LogUnavailableError, match="2 records"):
        outbox.put(outgoing(b"d")).result(0)
    assert cancelled.cancel()
    go_on.set()
    outbox.close(10)
    assert kept.result(0) is None
    assert sent == [b"a", b"b"]
    with pytest.raises(LogUnavailableError, match="closed"):
        outbox.put(outgoing(b"e")).result(0)


def test_what_cannot_be_sent_by_closing_time_fails_instead_of_hanging() -> None:
    busy, go_on = threading.Event(), threading.Event()

    def send(taken: list[Outgoing]) -> None:
        busy.set()
        go_on.wait(10)

    outbox = Outbox(send, max_waiting=2, max_batch=1, tick_s=60)
    outbox.put(outgoing(b"a"))
    assert busy.wait(10)
    left = outbox.put(outgoing(b"b"))
    outbox.close(0.05)
    with pytest.raises(LogUnavailableError, match="closed"):
        left.result(0)
    go_on.set()
