"""Slots that stand still: held, looked at again ever less often, and forgotten when another member has them."""

from dataclasses import replace
from random import Random

from store.buffer.ledger import LogSlot
from store.retry.backoff import Backoff
from stream.log import Batch, Record
from stream.reading.standstill import Standstills

SLOT, OTHER = LogSlot("understudy.support", "uuid", 0), LogSlot("understudy.support", "uuid", 1)


def batch(slot: LogSlot = SLOT, *, fence: int = 1, offset: int = 5) -> Batch:
    record = Record(
        topic=slot.topic, partition=slot.partition, offset=offset, key=b"", value=b"", headers=(), timestamp_ms=0
    )
    return Batch(slot=slot, fence=fence, start=str(offset), next=str(offset + 1), records=(record,))


def stills() -> Standstills:
    return Standstills(Backoff(first_s=1.0, most_s=8.0), Random(0))


def test_a_slot_is_held_until_its_next_look_and_then_given_back_once() -> None:
    standing = stills()
    standing.stop(batch(), "why", 100.0)
    assert (standing.held, standing.why) == ((SLOT,), {SLOT: "why"})
    assert standing.due(100.4) == []
    assert standing.due(101.0) == [batch()]
    assert standing.due(101.1) == []
    assert (standing.held, standing.why) == ((), {SLOT: "why"})  # it is being read, and still said


def test_looks_that_find_the_same_come_ever_less_often_and_another_record_begins_anew() -> None:
    standing, now_s, waits = stills(), 0.0, list[float]()
    for fence in range(6):
        standing.stop(batch(fence=fence), "why", now_s)
        began_s = now_s
        while not standing.due(now_s):
            now_s += 0.01
        waits.append(now_s - began_s)
    assert 0.5 <= waits[0] <= 1.1
    assert 4.0 <= waits[-1] <= 8.1
    standing.stop(batch(fence=9, offset=6), "why", now_s)
    assert standing.due(now_s + 1.0)


def test_what_was_read_under_the_same_claim_is_not_taken_and_what_is_read_anew_is() -> None:
    standing = stills()
    standing.stop(batch(fence=3), "why", 0.0)
    assert standing.precedes(batch(fence=3, offset=6))
    assert not standing.precedes(batch(fence=4))
    assert not standing.precedes(batch(OTHER, fence=3))
    standing.passed(SLOT)
    standing.passed(OTHER)
    assert (standing.held, standing.why) == ((), {})
    assert not standing.precedes(batch(fence=3))


def test_a_slot_that_brings_nothing_for_a_minute_is_another_members() -> None:
    standing = stills()
    standing.stop(batch(), "why", 0.0)
    standing.stop(replace(batch(), slot=OTHER), "why", 50.0)
    assert standing.due(1.0) == [batch()]
    standing.due(60.9)
    assert set(standing.why) == {SLOT, OTHER}
    standing.due(61.0)
    assert set(standing.why) == {OTHER}
