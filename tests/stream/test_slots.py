"""What a member owns, and how far each slot has come."""

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists

from store.buffer.ledger import BEGINNING, Claim, LogSlot
from store.errors import PositionOutsideLogError
from stream.log import Record
from stream.slots import MemberSlots, start_offset

SLOT = LogSlot("understudy.support", "uuid", 0)


def records(offset: int, count: int) -> tuple[Record, ...]:
    return tuple(
        Record(topic=SLOT.topic, partition=0, offset=offset + n, key=None, value=b"", headers=(), timestamp_ms=1000 + n)
        for n in range(count)
    )


@given(sizes=lists(integers(1, 5), min_size=1, max_size=10))
def test_batches_chain_and_only_what_was_applied_counts(sizes: list[int]) -> None:
    slots, offset, position = MemberSlots(), 7, BEGINNING
    slots.take(SLOT, Claim(1, BEGINNING), offset)
    batches = []
    for size in sizes:
        batch = slots.batch(SLOT, records(offset, size), offset + size)
        assert (batch.start, batch.next) == (position, str(offset + size))
        batches.append(batch)
        offset, position = offset + size, batch.next
    state = slots.owned[SLOT]
    assert state.applied_offset == 7
    for batch in batches:
        assert slots.settle(batch, "ok") == "kept"
        assert state.applied_offset == int(batch.next)
    assert not state.in_flight
    assert state.read_offset == offset


@pytest.mark.parametrize("outcome", ["fenced", "moved"])
def test_a_refused_batch_drops_the_slot_and_makes_the_ones_in_flight_stale(outcome: str) -> None:
    slots = MemberSlots()
    slots.take(SLOT, Claim(1, "7"), 7)
    first, second = slots.batch(SLOT, records(7, 2), 9), slots.batch(SLOT, records(9, 2), 11)
    assert slots.settle(first, "fenced" if outcome == "fenced" else "moved") == outcome
    assert slots.get(SLOT) is None
    slots.take(SLOT, Claim(2, "7"), 7)
    assert slots.settle(second, "ok") == "stale"
    assert slots.owned[SLOT].applied_offset == 7


def test_the_beginning_is_where_the_log_begins_now() -> None:
    assert start_offset(SLOT, BEGINNING, 5, 9) == 5


@given(begin=integers(0, 100), length=integers(0, 100), position=integers(0, 250))
def test_a_position_is_either_in_the_log_or_an_error(begin: int, length: int, position: int) -> None:
    end = begin + length
    if begin <= position <= end:
        assert start_offset(SLOT, str(position), begin, end) == position
    else:
        with pytest.raises(PositionOutsideLogError, match=str(position)):
            start_offset(SLOT, str(position), begin, end)


@pytest.mark.parametrize(("begin", "end"), [(5, 9), (0, 4), (7, 7)])
def test_one_record_that_is_missing_at_either_end_of_the_log_is_an_error(begin: int, end: int) -> None:
    for inside in (begin, end):
        assert start_offset(SLOT, str(inside), begin, end) == inside
    with pytest.raises(PositionOutsideLogError, match="has lost records"):
        start_offset(SLOT, str(end + 1), begin, end)
    if begin:
        with pytest.raises(PositionOutsideLogError, match="1 records were deleted"):
            start_offset(SLOT, str(begin - 1), begin, end)


@pytest.mark.parametrize("position", ["", "-2", "1.5", "x", "\u0663", "+3", " 3"])
def test_a_position_that_is_no_number_is_an_error(position: str) -> None:
    with pytest.raises(PositionOutsideLogError, match="damaged"):
        start_offset(SLOT, position, 0, 9)
