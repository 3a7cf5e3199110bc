"""The count after a kill is itself put to the test: whatever is lost or counted twice must be reported."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.buffer.item import Item
from store.buffer.ledger import Application, Counters
from store.buffer.memory import MemoryBuffer
from store.event import ClassifyEscalation, encode
from stream.log import topic_of
from stream.memory import MemoryLog
from tests.contracts.escalations import LANE, entry, escalation
from tests.faults.claims import (
    Evidence,
    Kept,
    Received,
    Standing,
    accepted_ids,
    check,
    cut_audits,
    read_buffer,
    read_log,
)

LANE_KEY = str(LANE).encode()  # as `entry` has it
KILLED_S = 1000.0
CHAMPION = Standing(champion="v1", moves=("first",))
SOUND = {
    **dict.fromkeys(("ok", "complete", "chain_ok", "signatures_ok"), True),
    **{name: [] for name in ("missing", "extra", "differing", "problems")},
}
EVENTS = [escalation(f"question {number % 7}", number=number) for number in range(20)]
IMPORTED = frozenset(event.id for event in EVENTS[:5])


def told(event: ClassifyEscalation, **changes: Any) -> Received:
    """An answer that the teacher gave and whose event was accepted."""
    received = Received(
        event_id=event.id,
        answered_id=event.id,
        served_by="teacher",
        version="v1",
        sent_s=KILLED_S + 5,
        failures=(),
    )
    return replace(received, **changes)


def audited(event: ClassifyEscalation, **changes: Any) -> Received:
    """An answer that the student gave, with an audit promised."""
    return told(event, served_by="student", **changes)


LAST = audited(EVENTS[19])


def written(*events: ClassifyEscalation) -> MemoryLog:
    log = MemoryLog()
    log.ensure(topic_of(LANE.use_case), 3)
    for event in events:
        log.append(topic_of(LANE.use_case), key=entry(event).item_id.encode(), value=encode(event)).result(1)
    return log


def counted(log: MemoryLog) -> MemoryBuffer:
    """What ingest makes of a log."""
    buffer = MemoryBuffer(1000)
    decoder = msgspec.json.Decoder(ClassifyEscalation)
    for slot in log.slots(topic_of(LANE.use_case)):
        begin, end = log.bounds(slot)
        claim = buffer.claim(LANE.use_case, slot, "test")
        entries = tuple(entry(decoder.decode(record.value)) for record in log.read(slot, begin, end))
        application = Application(
            use_case=LANE.use_case, slot=slot, fence=claim.fence, start=claim.position, next=end, entries=entries
        )
        assert buffer.apply(application).outcome == "ok"
    return buffer


def evidence(log: MemoryLog, buffer: Any, **changes: Any) -> Evidence:
    """A kill of ingest after which all is well, unless log or buffer say otherwise."""
    seen = Evidence(
        process="ingest",
        killed_s=KILLED_S,
        received=[*(told(event) for event in EVENTS[5:19]), LAST],
        imported=IMPORTED,
        log=read_log(log, LANE, LANE_KEY),
        buffer=read_buffer(buffer, LANE),
        counters=buffer.counters(LANE),
        dead=0,
        verify=SOUND,
        before=CHAMPION,
        after=CHAMPION,
        served_after=[LAST],
    )
    return replace(seen, **changes)


def sound(**changes: Any) -> Evidence:
    log = written(*EVENTS)
    return evidence(log, counted(log), **changes)


def test_where_all_is_well_nothing_is_reported() -> None:
    seen = sound()
    assert check(seen) == []
    assert accepted_ids(seen) == {event.id for event in EVENTS[5:]}


@given(st.integers(0, len(EVENTS) - 1))
def test_a_log_that_lacks_an_event_is_reported_though_the_buffer_agrees_with_it(index: int) -> None:
    log = written(*EVENTS[:index], *EVENTS[index + 1 :])
    problems = check(evidence(log, counted(log)))
    assert len(problems) == 1
    assert "not in the log" in problems[0]
    assert EVENTS[index].id in problems[0]


@given(st.integers(0, len(EVENTS) - 1))
def test_a_buffer_that_lacks_an_event_of_the_log_is_reported(index: int) -> None:
    fewer = counted(written(*EVENTS[:index], *EVENTS[index + 1 :]))
    problems = check(evidence(written(*EVENTS), fewer))
    assert any("miscounted" in problem for problem in problems)
    assert any("do not name their events" in problem for problem in problems)
    assert any(problem.startswith("counted: 19") for problem in problems)


class Doubled:
    """A buffer that counted one item's events twice; its counters say nothing of it."""

    def __init__(self, buffer: MemoryBuffer) -> None:
        self._buffer = buffer

    def items(self, lane: Any) -> Iterator[Item]:
        first, *others = self._buffer.items(lane)
        yield msgspec.structs.replace(first, count=2 * first.count)
        yield from others

    def counters(self, lane: Any) -> Counters:
        return self._buffer.counters(lane)


def test_a_buffer_with_a_doubled_count_is_reported_even_where_the_totals_hide_it() -> None:
    log = written(*EVENTS)
    problems = check(evidence(log, Doubled(counted(log))))
    assert len(problems) == 1
    assert "1 items are miscounted" in problems[0]


def test_a_record_that_was_written_twice_counts_once() -> None:
    log = written(*EVENTS, EVENTS[7])
    seen = evidence(log, counted(log))
    assert check(seen) == []
    assert any("repeats: 0" in problem for problem in check(replace(seen, counters=replace(seen.counters, repeats=0))))


def test_of_an_item_asked_more_often_than_it_remembers_ids_the_count_is_checked_all_the_same() -> None:
    events = [escalation("always the same", number=number) for number in range(50)]
    log = written(*events)
    seen = evidence(log, counted(log), imported=frozenset(event.id for event in events[:-1]))
    seen = replace(seen, received=[audited(events[-1])], served_after=[audited(events[-1])])
    assert check(seen) == []
    (name, item), *_ = seen.buffer.items()
    assert any("miscounted" in problem for problem in check(replace(seen, buffer={name: replace(item, count=49)})))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda seen: {"received": [told(EVENTS[5], served_by=None, answered_id=None), *seen.received[1:]]},
            "answered",
        ),
        (lambda seen: {"received": [*seen.received, told(EVENTS[5])]}, "share a key"),
        (lambda seen: {"received": [told(EVENTS[5], answered_id=EVENTS[6].id), *seen.received[1:]]}, "another event"),
        (lambda seen: {"received": seen.received[1:]}, "asked for by nobody"),
        (lambda seen: {"received": [told(EVENTS[5], failures=("reset",)), *seen.received[1:]]}, "attempts failed"),
        (lambda seen: {"log": [*seen.log, (EVENTS[5].id, "another question")]}, "two questions"),
        (lambda seen: {"buffer": {**seen.buffer, "more": Kept(count=1, event_ids=("x",))}}, "does not know"),
        (lambda seen: {"counters": dataclasses.replace(seen.counters, counted=40)}, "counted: 40"),
        (lambda _: {"dead": 1}, "dead: 1"),
        (lambda _: {"verify": {**SOUND, "missing": ["item"]}}, "missing"),
        (lambda _: {"verify": {**SOUND, "chain_ok": False}}, "chain_ok"),
        (lambda _: {"verify": {}}, "verify says"),
        (lambda _: {"after": Standing(champion="v2", moves=("first",))}, "without a move"),
        (lambda _: {"after": Standing(champion="v1", moves=("other", "second"))}, "does not go on"),
        (lambda _: {"after": Standing(champion=None, moves=("first",))}, "no champion"),
        (lambda _: {"served_after": [replace(LAST, version="v0"), LAST]}, "v0"),
        (lambda _: {"served_after": []}, "answers nothing"),
    ],
)
def test_whatever_else_is_wrong_is_reported(change: Callable[[Evidence], dict[str, Any]], said: str) -> None:
    seen = sound()
    assert any(said in problem for problem in check(replace(seen, **change(seen))))


def test_a_champion_that_was_promoted_meanwhile_is_well_if_the_chain_says_so() -> None:
    after = Standing(champion="v2", moves=("first", "promote v2"))
    assert check(sound(after=after, served_after=[replace(LAST, version="v2")])) == []


@pytest.mark.parametrize(
    ("process", "sent_s", "excused"),
    [
        ("serve", KILLED_S - 1, True),
        ("serve", KILLED_S - 60, False),
        ("serve", KILLED_S + 1, False),
        ("ingest", KILLED_S - 1, False),
        ("train", KILLED_S - 1, False),
    ],
)
def test_only_the_gateway_takes_audits_with_it_and_only_those_of_its_last_moments(
    process: str, sent_s: float, *, excused: bool
) -> None:
    log = written(*EVENTS[:19])
    lost = audited(EVENTS[19], sent_s=sent_s)
    received = [*(told(event) for event in EVENTS[5:19]), lost]
    seen = evidence(log, counted(log), process=process, received=received)
    assert (cut_audits(seen) == {EVENTS[19].id}) is excused
    assert (check(seen) == []) is excused
    assert (EVENTS[19].id in accepted_ids(seen)) is not excused
