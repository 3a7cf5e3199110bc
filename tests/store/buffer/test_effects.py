"""What a batch does to a buffer, against a count by hand."""

from collections import Counter
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.buffer.effects import ItemKey, LaneEffects, effects, keys_read, retention_rank
from store.buffer.item import Entry, Item, merge
from store.buffer.ledger import AuditTally, Counters
from store.event import ClassifyEscalation, Lane
from store.secrets import unit_hash
from tests.contracts.escalations import LANE, entry, escalation

OTHER: Final = Lane("bolt", "support")
EVENTS = st.builds(
    lambda question, number, label, lane, audit, eligible, asked: escalation(
        f"question {question}",
        number=number,
        label=label,
        lane=lane,
        reason="audit" if audit else "low_confidence",
        student="refund" if asked else None,
        version=f"v{number % 3}",
        eligible=eligible,
    ),
    question=st.integers(0, 3),
    number=st.integers(0, 9),
    label=st.sampled_from(("refund", "cancel")),
    lane=st.sampled_from((LANE, OTHER)),
    audit=st.booleans(),
    eligible=st.booleans(),
    asked=st.booleans(),
)
BATCHES = st.lists(EVENTS, max_size=14).map(lambda events: [entry(event) for event in events])


def test_a_batch_of_two_lanes_is_counted_lane_by_lane() -> None:
    first = entry(escalation("where is it", number=1, reason="audit"))
    wrong = entry(escalation("where is it", number=2, reason="audit", label="cancel"))
    older = entry(escalation("where was it", number=3, reason="audit", version="v0"))
    unasked = entry(escalation("what is it", number=4, reason="audit", student=None))
    bought = entry(escalation("what is it", number=5))
    private = entry(escalation("who is it", number=6, reason="audit", eligible=False))
    other = entry(escalation("where is it", number=7, reason="audit", lane=OTHER))
    found = effects([first, wrong, older, unasked, bought, private, first, other], {})
    assert list(found) == [LANE, OTHER]
    assert found[LANE].counters == Counters(counted=5, repeats=1, ineligible=1, evicted=0, new_items=3)
    assert dict(found[LANE].audits) == {
        "v0": AuditTally(audits=1, agreed=1),
        "v1": AuditTally(audits=2, agreed=1),
    }
    assert {item.count for item in found[LANE].items.values()} == {2, 1}
    assert found[OTHER].counters == Counters(counted=1, new_items=1)
    assert dict(found[OTHER].audits) == {"v1": AuditTally(audits=1, agreed=1)}


def test_an_item_that_is_kept_goes_on_and_is_not_new() -> None:
    before = entry(escalation("where is it", number=1))
    again = entry(escalation("where is it", number=2, label="cancel"))
    kept = effects([before], {})[LANE].items[before.item_id]
    current = {ItemKey(LANE, before.item_id): kept}
    found = effects([again], current)[LANE]
    assert found.counters == Counters(counted=1)
    assert found.items[before.item_id].count == 2
    assert found.items[before.item_id].stratum == "refund"
    repeated = effects([before], current)[LANE]
    assert (dict(repeated.items), repeated.counters) == ({}, Counters(repeats=1))


def test_a_batch_that_changes_nothing_still_says_what_came() -> None:
    private = entry(escalation("who is it", eligible=False, reason="audit"))
    assert effects([private], {}) == {LANE: LaneEffects(items={}, counters=Counters(ineligible=1), audits={})}
    assert effects([], {}) == {}
    assert keys_read([private]) == []


@given(batch=BATCHES, kept=BATCHES)
def test_effects_are_those_of_one_event_after_the_other(batch: list[Entry], kept: list[Entry]) -> None:
    current: dict[ItemKey, Item] = {}
    for one in kept:
        key = ItemKey(one.lane, one.item_id)
        item, _ = merge(current.get(key), one)
        if item is not None:
            current[key] = item
    items = dict(current)
    fates: Counter[tuple[Lane, str]] = Counter()
    audits: Counter[tuple[Lane, str, bool]] = Counter()
    for one in batch:
        key = ItemKey(one.lane, one.item_id)
        item, fate = merge(items.get(key), one)
        fates[one.lane, fate] += 1
        event = one.event
        assert isinstance(event, ClassifyEscalation)
        if fate == "counted" and item is not None:
            items[key] = item
            if event.student is not None and event.escalation.reason == "audit":
                audits[one.lane, event.student.version, event.student.output == event.teacher.label] += 1
    found = effects(batch, current)
    assert set(found) == {one.lane for one in batch}
    for lane, part in found.items():
        expected = {key.item_id: item for key, item in items.items() if key.lane == lane and current.get(key) != item}
        assert dict(part.items) == expected
        assert part.counters == Counters(
            counted=fates[lane, "counted"],
            repeats=fates[lane, "repeat"],
            ineligible=fates[lane, "ineligible"],
            new_items=sum(ItemKey(lane, item_id) not in current for item_id in expected),
        )
        assert list(part.audits) == sorted({version for of, version, _ in audits if of == lane})
        for version, tally in part.audits.items():
            right, wrong = audits[lane, version, True], audits[lane, version, False]
            assert tally == AuditTally(audits=right + wrong, agreed=right)


@given(batch=BATCHES)
def test_what_is_read_are_the_items_of_eligible_events_each_once_as_they_come(batch: list[Entry]) -> None:
    wanted: list[ItemKey] = []
    for one in batch:
        key = ItemKey(one.lane, one.item_id)
        if one.event.eligible and key not in wanted:
            wanted.append(key)
    assert keys_read(batch) == wanted


@pytest.mark.parametrize("lane", [LANE, OTHER])
def test_who_is_kept_is_a_number_of_the_item_and_its_lane_alone(lane: Lane) -> None:
    """Stored ranks are compared with new ones for as long as a buffer lives: the number never changes."""
    assert retention_rank(lane, "ab") == unit_hash(f"keep/{lane.tenant}/{lane.use_case}", "ab")
    ranks = sorted(retention_rank(lane, f"{number}") for number in range(2000))
    assert all(abs(rank - (place + 0.5) / 2000) < 0.05 for place, rank in enumerate(ranks))  # uniform
    assert retention_rank(LANE, "ab") != retention_rank(OTHER, "ab")
