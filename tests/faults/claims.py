"""What must hold after a kill, checked event by event from outside. Pure, but for the two functions that read.

An event is accepted once the client has read its id in an answer of the teacher's. The id of an audit is a promise: the
teacher is asked after the answer went out, so a gateway that is killed takes the audits of its last moments with it,
and nobody else may.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from store.buffer.item import MAX_EVENT_IDS
from store.buffer.ledger import Buffer, Counters
from store.event import ClassifyEscalation, Lane, decode
from store.secrets import item_id
from store.tasks.classify import ClassifyRules
from stream.log import History, topic_of

AUDIT_PATIENCE_S: Final = 10.0  # an audit that was promised longer before the kill must have been asked by then
_SHOWN: Final = 5

Process = Literal["serve", "ingest", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as the client saw it, retries and all."""

    event_id: str  # the one that its Idempotency-Key stands for
    answered_id: str | None  # the one in the answer
    served_by: str | None  # None: it was never answered
    version: str | None
    sent_s: float  # when its last attempt was sent, monotonic
    failures: tuple[str, ...]  # of its attempts

    @property
    def accepted(self) -> bool:
        """Whether the answer says that its event is in the log."""
        return self.served_by == "teacher" and self.answered_id is not None

    @property
    def promised(self) -> bool:
        """Whether the answer says that an audit will be."""
        return self.served_by == "student" and self.answered_id is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What of an item is compared."""

    count: int
    event_ids: tuple[str, ...]  # the newest 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A lane's chain of moves at one moment."""

    champion: str | None
    moves: tuple[str, ...]  # what each says, as JSON: a later chain must begin with them


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that was seen of one kill."""

    process: Process
    killed_s: float  # monotonic
    received: Sequence[Received]
    imported: frozenset[str]  # event ids that were there before the client began
    log: Sequence[tuple[str, str]]  # (event id, item id) of each record
    buffer: Mapping[str, Kept]
    counters: Counters
    dead: int
    verify: Mapping[str, Any]
    before: Standing
    after: Standing
    served_after: Sequence[Received] = field(default_factory=list)  # what was asked at the end, also in `received`


def read_log(history: History, lane: Lane, lane_key: bytes) -> list[tuple[str, str]]:
    """(event id, item id) of each of the lane's records, in the order of each partition."""
    found = []
    for slot in history.slots(topic_of(lane.use_case)):
        for record in history.read(slot, *history.bounds(slot)):
            event = decode(record.value)
            if isinstance(event, ClassifyEscalation) and event.lane == lane:
                found.append((event.id, item_id(lane_key, ClassifyRules(), event.input)))
    return found


def read_buffer(buffer: Buffer, lane: Lane) -> dict[str, Kept]:
    """What is kept, by item id."""
    return {
        item.item_id: Kept(count=item.count, event_ids=tuple(event_id for _, event_id in item.event_ids))
        for item in buffer.items(lane)
    }


def cut_audits(seen: Evidence) -> set[str]:
    """The promised audits that never came and may have died with the gateway."""
    logged = {event_id for event_id, _ in seen.log}
    return {
        one.event_id
        for one in seen.received
        if one.promised and one.event_id not in logged and seen.process == "serve" and _died_with_it(one, seen.killed_s)
    }


def _died_with_it(one: Received, killed_s: float) -> bool:
    return killed_s - AUDIT_PATIENCE_S <= one.sent_s <= killed_s


def accepted_ids(seen: Evidence) -> set[str]:
    """The events that the client was told of and that must have been counted, once."""
    told = {one.event_id for one in seen.received if one.accepted or one.promised}
    return told - cut_audits(seen)


def check(seen: Evidence) -> list[str]:
    """What does not hold; empty when all of it does."""
    return [
        *_requests(seen),
        *_log(seen),
        *_buffer(seen),
        *_counters(seen),
        *_verified(seen.verify),
        *_champion(seen),
    ]


def _requests(seen: Evidence) -> Iterator[str]:
    yield from _named("requests were never answered", {one.event_id for one in seen.received if one.served_by is None})
    others = {one.event_id for one in seen.received if one.answered_id not in {None, one.event_id}}
    yield from _named("answers name another event than their key's", others)
    twice = [event_id for event_id, n in Counter(one.event_id for one in seen.received).items() if n > 1]
    yield from _named("requests share a key", twice)
    if seen.process != "serve":
        failures = sum(len(one.failures) for one in seen.received)
        if failures:
            yield f"{failures} attempts failed, though the gateway was not killed"


def _log(seen: Evidence) -> Iterator[str]:
    logged = {event_id for event_id, _ in seen.log}
    yield from _named("accepted events are not in the log", accepted_ids(seen) - logged)
    yield from _named("imported events are not in the log", seen.imported - logged)
    yield from _named(
        "events in the log were asked for by nobody", logged - seen.imported - {one.event_id for one in seen.received}
    )
    questions: dict[str, set[str]] = {}
    for event_id, name in seen.log:
        questions.setdefault(event_id, set()).add(name)
    yield from _named("events in the log are about two questions", {e for e, of in questions.items() if len(of) > 1})


def _buffer(seen: Evidence) -> Iterator[str]:
    """Every item is exactly the set of its events in the log."""
    expected: dict[str, set[str]] = {}
    for event_id, name in seen.log:
        expected.setdefault(name, set()).add(event_id)
    yield from _named("questions of the log are not in the buffer", expected.keys() - seen.buffer.keys())
    yield from _named("items are in the buffer that the log does not know", seen.buffer.keys() - expected.keys())
    miscounted = {
        name for name in expected.keys() & seen.buffer.keys() if seen.buffer[name].count != len(expected[name])
    }
    yield from _named("items are miscounted", miscounted)
    lost: set[str] = set()
    for name in expected.keys() & seen.buffer.keys():
        known = seen.buffer[name].event_ids
        if len(set(known)) != len(known) or not set(known) <= expected[name]:
            lost.add(name)
        if len(expected[name]) <= MAX_EVENT_IDS and set(known) != expected[name]:
            lost.add(name)
    yield from _named("items do not name their events", lost)


def _counters(seen: Evidence) -> Iterator[str]:
    events = len({event_id for event_id, _ in seen.log})
    for what, found, expected in (
        ("counted", seen.counters.counted, events),
        ("repeats", seen.counters.repeats, len(seen.log) - events),
        ("ineligible", seen.counters.ineligible, 0),
        ("evicted", seen.counters.evicted, 0),
        ("dead", seen.dead, 0),
    ):
        if found != expected:
            yield f"{what}: {found}, where the log says {expected}"


def _verified(report: Mapping[str, Any]) -> Iterator[str]:
    wrong = [name for name in ("missing", "extra", "differing", "problems") if report.get(name) != []]
    wrong += [name for name in ("ok", "complete", "chain_ok", "signatures_ok") if report.get(name) is not True]
    if wrong:
        yield f"verify says: {', '.join(f'{name} = {report.get(name)}' for name in wrong)}"


def _champion(seen: Evidence) -> Iterator[str]:
    before, after = seen.before, seen.after
    if before.champion is None or after.champion is None:
        yield "there is no champion"
        return
    if after.moves[: len(before.moves)] != before.moves:
        yield "the chain of moves does not go on from where it was"
    if len(after.moves) == len(before.moves) and after.champion != before.champion:
        yield f"{after.champion} took the place of {before.champion} without a move"
    others = {str(one.version) for one in seen.served_after if one.version != after.champion}
    yield from _named(f"not {after.champion} but these serve", others)
    if not any(one.served_by == "student" for one in seen.served_after):
        yield "at the end the student answers nothing"


def _named(what: str, names: Collection[str]) -> Iterator[str]:
    if names:
        shown = sorted(names)[:_SHOWN]
        yield f"{len(names)} {what}: {', '.join(shown)}{', …' if len(names) > _SHOWN else ''}"
