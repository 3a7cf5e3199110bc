"""An item is a function of the set of its events."""

import random
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.buffer.item import MAX_EVENT_IDS, Entry, Item, merge
from store.event import (
    ClassifyEscalation,
    EscalationCause,
    LabelAnswer,
    Reason,
    StudentOpinion,
    TextInput,
    new_event_id,
    utc,
)
from store.tasks.classify import ClassifyRules
from tests.store.test_event import an_event


@st.composite
def events(draw: st.DrawFn) -> ClassifyEscalation:
    time_s = draw(st.integers(min_value=1, max_value=1000))
    reasons: list[Reason] = ["cold", "audit"]
    reason = draw(st.sampled_from(reasons))
    return an_event(
        id=new_event_id(float(time_s), random.Random(draw(st.integers()))),
        time=utc(float(time_s)),
        teacher=LabelAnswer(model="m", prompt_version=draw(st.sampled_from("pq")), label=draw(st.sampled_from("ab"))),
        escalation=EscalationCause(reason=reason, threshold=None, propensity=draw(st.sampled_from([1.0, 0.15, 0.05]))),
        student=StudentOpinion(version=draw(st.sampled_from("vw")), output="a", confidence=0.5),
    )


RULES = ClassifyRules()


def fold(all_events: list[ClassifyEscalation]) -> Item | None:
    item: Item | None = None
    for event in all_events:
        item, _ = merge(item, Entry.of(event, "id", RULES))
    return item


@given(st.lists(events(), min_size=1, max_size=MAX_EVENT_IDS, unique_by=lambda event: event.id), st.randoms())
def test_the_order_of_events_matters_only_to_the_stratum(sample: list[ClassifyEscalation], rng: random.Random) -> None:
    shuffled = rng.sample(sample, len(sample))
    one, two = fold(sample), fold(shuffled)
    assert one is not None
    assert two is not None
    for name in set(Item.__struct_fields__) - {"stratum"}:
        assert getattr(one, name) == getattr(two, name), name


@given(st.lists(events(), min_size=1, max_size=MAX_EVENT_IDS))
def test_an_event_sent_twice_is_counted_once(sample: list[ClassifyEscalation]) -> None:
    once = fold(sample)
    assert fold([*sample, *sample]) == once
    assert once is not None
    assert once.count == len({event.id for event in sample})


@given(numbers=st.permutations(range(1, 41)))
@settings(max_examples=10)
def test_an_item_knows_when_it_was_first_and_last_asked_and_its_newest_events(numbers: list[int]) -> None:
    """More events than are remembered, in any order: the oldest ids are forgotten, and nothing else is."""
    ids = {number: new_event_id(float(number), random.Random(number)) for number in numbers}
    item = fold([an_event(id=ids[number], time=utc(float(number)), subject=f"s{number % 3}") for number in numbers])
    assert item is not None
    assert (item.first_asked_s, item.last_asked_s, item.count) == (1.0, 40.0, 40)
    assert item.event_ids == [(float(number), ids[number]) for number in range(9, 41)]
    assert item.subjects == ["s0", "s1", "s2"]
    assert item.tally == {"m@p": {"track": 40}}
    assert item.stratum == "track"
    newest = an_event(id=ids[40], time=utc(40.0))
    assert merge(item, Entry.of(newest, "id", RULES)) == (item, "repeat")


def test_the_layout_is_the_newest_events_whenever_it_comes() -> None:
    texts = ["a b", "a\nb", "a  b"]
    events = [
        an_event(id=new_event_id(float(n), random.Random(n)), time=utc(float(n)), input=TextInput(text=text))
        for n, text in enumerate(texts)
    ]
    for order in permutations(events):
        item = fold(list(order))
        assert item is not None
        assert item.input == TextInput(text="a  b")


def test_of_opinions_from_one_moment_the_one_of_the_lowest_id_is_kept() -> None:
    low, high = sorted(new_event_id(1.0, random.Random(seed)) for seed in (1, 2))
    events = [
        an_event(id=own, time=utc(1.0), student=StudentOpinion(version=own, output="a", confidence=0.5))
        for own in (high, low)
    ]
    for order in (events, events[::-1]):
        item = fold(order)
        assert item is not None
        assert item.first_opinion is not None
        assert item.first_opinion.opinion.version == low


def test_an_audits_opinion_is_one_like_any_other() -> None:
    audit = an_event(escalation=EscalationCause(reason="audit", threshold=0.9, propensity=0.05))
    item = fold([audit])
    assert item is not None
    assert item.first_opinion is not None
    assert (item.count, item.escalated) == (1, 0)


def test_the_mass_is_the_number_of_requests_it_stands_for() -> None:
    rng = random.Random(1)
    cold = an_event(id=new_event_id(1.0, rng))
    audits = [
        an_event(id=new_event_id(2.0, rng), escalation=EscalationCause(reason="audit", threshold=0.9, propensity=0.05))
        for _ in range(2)
    ]
    item = fold([cold, *audits])
    assert item is not None
    assert item.mass == pytest.approx(41.0)
    assert item.escalated == 1


def test_an_ineligible_event_leaves_no_trace() -> None:
    item, fate = merge(None, Entry.of(an_event(eligible=False), "id", RULES))
    assert (item, fate) == (None, "ineligible")


def test_the_opinion_kept_is_the_one_from_before_the_label_was_seen() -> None:
    early = an_event(id=new_event_id(1.0, random.Random(1)), time=utc(1.0))
    late = an_event(
        id=new_event_id(2.0, random.Random(2)),
        time=utc(2.0),
        student=StudentOpinion(version="new", output="b", confidence=0.9),
    )
    item = fold([late, early])
    assert item is not None
    assert item.first_opinion is not None
    assert item.first_opinion.opinion == early.student
