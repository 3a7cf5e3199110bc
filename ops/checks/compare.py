"""Does the buffer hold what the log says? Reads both and compares, while ingest may be at work.

Positions are read before and after the items, and all of it again while they differ. Where traffic never leaves a gap,
the log is worked out at both positions, and only what was asked in between is compared within bounds.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ops.checks.oracle import CountedQuestion, LaneRules, LaneTotals, Oracle, as_kept, kept, rank
from ops.reports import Differing
from store.buffer.item import Item
from store.buffer.ledger import BEGINNING, AuditTally, Buffer, Counters, LogSlot
from store.buffer.repair.lists import ListsHeld
from store.buffer.repair.positions import Skip
from store.event import Lane, UnknownTask, canonical_text
from stream.log import History, topic_of

_LOOKS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedAt:
    """What the buffer held, between two readings of its positions."""

    before: Mapping[LogSlot, str]
    after: Mapping[LogSlot, str]
    items: Mapping[Lane, Mapping[str, Item]]
    counters: Mapping[Lane, Counters]
    audits: Mapping[Lane, Mapping[str, AuditTally]]
    dead: Mapping[str, int]
    damaged: Mapping[Lane, frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reread:
    """What the log says, at the positions before and after the look."""

    from_offset: int  # the highest beginning of any partition; 0 when nothing was cut
    complete: bool
    offsets: Mapping[str, str]
    records: int
    low: Mapping[Lane, LaneTotals]
    high: Mapping[Lane, LaneTotals]
    low_dead: Mapping[str, int]
    high_dead: Mapping[str, int]
    moving: Mapping[Lane, frozenset[str]]  # questions that were asked between the two


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """One lane, compared."""

    expected: int
    found: int
    missing: list[str]
    extra: list[str]
    differing: list[Differing]


def look(buffer: Buffer, use_case: str, lanes: Iterable[Lane]) -> LookedAt:
    """Read the buffer, anew while ingest moved it; the last of ten readings is taken as it is.

    Raises:
        StoreUnavailableError: Redis did not answer.
    """
    chosen = list(lanes)
    seen = _look_once(buffer, use_case, chosen)
    for _ in range(_LOOKS - 1):
        if seen.before == seen.after:
            break
        seen = _look_once(buffer, use_case, chosen)
    return seen


def _look_once(buffer: Buffer, use_case: str, lanes: list[Lane]) -> LookedAt:
    before = dict(buffer.positions(use_case))
    return LookedAt(
        before=before,
        items={lane: {item.item_id: item for item in buffer.items(lane)} for lane in lanes},
        counters={lane: buffer.counters(lane) for lane in lanes},
        audits={lane: dict(buffer.audits(lane)) for lane in lanes},
        dead=dict(buffer.dead(use_case)),
        damaged={lane: buffer.damaged(lane) for lane in lanes},
        after=dict(buffer.positions(use_case)),
    )


def replay(
    use_case: str,
    rules: Mapping[Lane, LaneRules],
    history: History,
    seen: LookedAt,
    *,
    max_age_s: float,
    skips: Collection[Skip] = (),
    held: Sequence[ListsHeld] = (),
    buried_as: Callable[[LogSlot, int], str] = lambda *_: UnknownTask.buried_as,
) -> Reread:
    """Read the log from its beginning up to the positions that were seen; what was skipped is left out.

    Raises:
        LogUnavailableError: the log did not answer.
        DamagedRecordError: a record fails its checksum, and nobody has skipped it.
        PositionOutsideLogError: records disappeared while they were read.
    """
    oracle = Oracle(use_case, rules, max_age_s=max_age_s, held=held, buried_as=buried_as)
    slots = history.slots(topic_of(use_case))
    begins = {slot: history.bounds(slot)[0] for slot in slots}
    elsewhere = {slot for slot, at in seen.before.items() if at != BEGINNING}
    lost = elsewhere - set(slots)  # of a topic that was deleted or made anew
    unread = {slot: sorted(skip.unread for skip in skips if skip.slot == slot) for slot in slots}
    for slot in slots:
        start, end = begins[slot], _within(history, slot, seen.before.get(slot, BEGINNING))
        for first, last in unread[slot]:
            _feed(oracle, history, slot, start, str(min(first, int(end))))
            start = str(max(int(start), last))
        _feed(oracle, history, slot, start, end)
    low, low_dead = copy.deepcopy(oracle.lanes), dict(oracle.dead)
    asked: set[tuple[Lane, str]] = set()
    for slot in slots:
        start = _within(history, slot, seen.before.get(slot, BEGINNING))
        start = begins[slot] if start == BEGINNING else start
        asked |= _feed(oracle, history, slot, start, _within(history, slot, seen.after.get(slot, BEGINNING)))
    return Reread(
        from_offset=max((int(begin) for begin in begins.values()), default=0),
        complete=not lost and not skips and not any(int(begin) for begin in begins.values()),
        offsets={f"{slot.uuid}/{slot.partition}": position for slot, position in sorted(seen.before.items())},
        records=oracle.records,
        low=low,
        high=oracle.lanes,
        low_dead=low_dead,
        high_dead=oracle.dead,
        moving={lane: frozenset(name for of, name in asked if of == lane) for lane in rules},
    )


def _within(history: History, slot: LogSlot, position: str) -> str:
    """The position, or where the log ends if that is before it: it stands still there until a person decides."""
    if not position.isascii() or not position.isdecimal():
        return BEGINNING
    return str(min(int(position), int(history.bounds(slot)[1])))


def _feed(oracle: Oracle, history: History, slot: LogSlot, start: str, end: str) -> set[tuple[Lane, str]]:
    """Let the oracle read [start, end) of a slot; the questions that were asked there."""
    if int(end) <= int(start):
        return set()
    asked = (
        oracle.feed(record.value, record.timestamp_ms, slot, record.offset) for record in history.read(slot, start, end)
    )
    return {question for question in asked if question is not None}


def compare(lane: Lane, seen: LookedAt, said: Reread, items_per_stratum: int) -> Findings:
    """Compare one lane. With an incomplete log only what must be there whatever came before is looked for.

    A question that was evicted and then asked again, with an answer of another class, comes back in that class's
    stratum (the buffer does not remember whom it evicted) and may push another item out of it: neither is an error.
    """
    items, moving = seen.items[lane], said.moving[lane]
    low, high = (kept(lane, totals, items_per_stratum) for totals in (said.low[lane], said.high[lane]))
    edges = _edges(lane, items, items_per_stratum)
    missing = (low.keys() & high.keys()) - items.keys()
    if not said.complete:
        missing = {name for name in missing if not any(rank(lane, name) > edge for edge in edges.values())}
        return Findings(expected=len(low), found=len(items), missing=sorted(missing), extra=[], differing=[])
    returned = {name for name, item in items.items() if _has_returned(lane, item, said.high[lane], edges)}
    refilled = {items[name].stratum for name in returned}
    missing = {
        name
        for name in missing
        if not (low[name].stratum in refilled and rank(lane, name) > edges.get(low[name].stratum, 1.0))
    }
    extra = items.keys() - low.keys() - high.keys() - returned
    differing = [
        Differing(what=name, fields=fields)
        for name in sorted(items.keys() - extra - returned)
        if (fields := _fields_off(items[name], low.get(name), high.get(name), moving=name in moving))
    ]
    if counters := _counters_off(lane, seen, said, items_per_stratum):
        differing.append(Differing(what=str(lane), fields=counters))
    return Findings(
        expected=len(low), found=len(items), missing=sorted(missing), extra=sorted(extra), differing=differing
    )


def _has_returned(lane: Lane, item: Item, totals: LaneTotals, edges: Mapping[str, float]) -> bool:
    """Whether an item is a question that was evicted from its first stratum and came back in another."""
    question = totals.questions.get(item.item_id)
    return (
        question is not None
        and item.stratum != question.stratum
        and item.stratum in question.strata
        and item.count < question.asked
        and rank(lane, item.item_id) > edges.get(question.stratum, 1.0)
    )


def dead_off(seen: LookedAt, said: Reread) -> list[str]:
    """The reasons whose dead letters were counted wrongly."""
    reasons = seen.dead.keys() | said.high_dead.keys()
    return [
        f"dead.{reason}"
        for reason in sorted(reasons)
        if not said.low_dead.get(reason, 0) <= seen.dead.get(reason, 0) <= said.high_dead.get(reason, 0)
    ]


def _edges(lane: Lane, items: Mapping[str, Item], items_per_stratum: int) -> dict[str, float]:
    """The largest kept rank of each stratum that is full: beyond it, items are evicted."""
    strata: dict[str, list[float]] = {}
    for name, item in items.items():
        strata.setdefault(item.stratum, []).append(rank(lane, name))
    return {stratum: max(ranks) for stratum, ranks in strata.items() if len(ranks) >= items_per_stratum}


def _fields_off(item: Item, low: CountedQuestion | None, high: CountedQuestion | None, *, moving: bool) -> list[str]:
    """The fields of an item that are not what its events make them."""
    least, most = as_kept(low) if low else None, as_kept(high) if high else None
    found = _plain(item)
    if low is not None or high is not None:
        tokens = (low.subjects if low else {}) | (high.subjects if high else {})  # earlier releases kept clear subjects
        found["subjects"] = sorted({tokens.get(subject, subject) for subject in item.subjects})
        found["input"] = _as_expected(found["input"], least or most or {}, high or low)
    if not moving:
        expected = least or most or {}
        return [name for name, value in found.items() if expected.get(name) != value]
    if most is not None and not (least["count"] if least else 0) <= found["count"] <= most["count"]:
        return ["count"]
    return []


def _as_expected(kept: Any, expected: Mapping[str, Any], question: CountedQuestion | None) -> Any:
    """The expected input, where the kept one is another spelling of it that a release has kept.

    Earlier releases kept the canonical form, without its layout, and never changed an input that was there.
    """
    written = [msgspec.to_builtins(event.input) for event, _ in question.events] if question is not None else []
    known = kept in written or kept in map(_canonical, written)
    return expected.get("input") if known else kept


def _canonical(value: Any) -> Any:
    """Every text of an input in canonical form; lists stay in their order, which is that of their canonical texts."""
    if isinstance(value, str):
        return canonical_text(value)
    if isinstance(value, dict):
        return {name: _canonical(one) for name, one in value.items()}
    return [_canonical(one) for one in value] if isinstance(value, list) else value


def _plain(item: Item) -> dict[str, Any]:
    first = item.first_opinion
    return {
        "stratum": item.stratum,
        "input": msgspec.to_builtins(item.input),
        "tally": item.tally,
        "count": item.count,
        "escalated": item.escalated,
        "propensities": item.propensities,
        "first_asked_s": item.first_asked_s,
        "last_asked_s": item.last_asked_s,
        "event_ids": [tuple(pair) for pair in item.event_ids],
        "first_opinion": None if first is None else (first.time_s, first.event_id),
        "subjects": item.subjects,
    }


def _counters_off(lane: Lane, seen: LookedAt, said: Reread, items_per_stratum: int) -> list[str]:
    """The counters of a lane that are out of their bounds.

    Once a stratum has overflowed, a repeat of an event whose item was evicted counts as counted and evicted again, and
    whether it came before or after the eviction depends on how partitions interleaved: then only sums are fixed.
    """
    low, high, counters = said.low[lane], said.high[lane], seen.counters[lane]
    whole = len(kept(lane, high, items_per_stratum)) == len(high.questions)
    off: list[str] = []

    def bound(name: str, value: int, least: int, most: int) -> None:
        if not least <= value <= most:
            off.append(name)

    bound("ineligible", counters.ineligible, low.ineligible, high.ineligible)
    handled = counters.counted + counters.repeats
    bound("counted+repeats", handled, low.counted + low.repeats, high.counted + high.repeats)
    if seen.before == seen.after:
        in_items = sum(item.count for item in seen.items[lane].values())
        bound("counted-evicted", counters.counted - counters.evicted, in_items, in_items)
    if whole:
        bound("counted", counters.counted, low.counted, high.counted)
        bound("repeats", counters.repeats, low.repeats, high.repeats)
        bound("evicted", counters.evicted, 0, 0)
        bound("new_items", counters.new_items, len(low.questions), len(high.questions))
    for version in sorted(seen.audits[lane].keys() | high.audits.keys()):
        tally = seen.audits[lane].get(version, AuditTally())
        least, most = low.audits.get(version, [0, 0]), high.audits.get(version, [0, 0])
        spare = 0 if whole else high.repeats
        bound(f"audits.{version}", tally.audits, least[0], most[0] + spare)
        bound(f"audits.{version}.agreed", tally.agreed, least[1], most[1] + spare)
    return off
