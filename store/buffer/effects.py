"""What a batch of events does to a buffer, as one value: the definition that every buffer shares. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from store.buffer.item import Entry, Fate, Item, merge
from store.buffer.ledger import AuditTally, Counters
from store.event import Lane
from store.secrets import unit_hash


class ItemKey(NamedTuple):
    """An item's place: the id alone would do (lanes have their own keys), the lane says where to look."""

    lane: Lane
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneEffects:
    """What a batch does to one lane, before eviction."""

    items: Mapping[str, Item]  # new or changed, by item id
    counters: Counters  # what is added; `evicted` is 0: only the buffer knows what has to go
    audits: Mapping[str, AuditTally]  # what is added, by version of the student


def keys_read(entries: Sequence[Entry]) -> list[ItemKey]:
    """The items that `effects` has to know: those of eligible events, each once, in order of appearance."""
    return list(dict.fromkeys(ItemKey(entry.lane, entry.item_id) for entry in entries if entry.event.eligible))


def effects(entries: Sequence[Entry], current: Mapping[ItemKey, Item]) -> dict[Lane, LaneEffects]:
    """Merge a batch into the items as they are. Items are evicted after the whole batch, by the buffer.

    Args:
        entries: the batch, in the log's order.
        current: the items of `keys_read(entries)` that are kept now.
    """
    items: dict[Lane, dict[str, Item]] = {}
    fates: dict[Lane, Counter[Fate]] = {}
    audits: dict[Lane, Counter[tuple[str, bool]]] = {}
    for entry in entries:
        changed = items.setdefault(entry.lane, {})
        known = changed.get(entry.item_id) or current.get(ItemKey(entry.lane, entry.item_id))
        item, fate = merge(known, entry)
        fates.setdefault(entry.lane, Counter())[fate] += 1
        if fate == "counted" and item is not None:
            changed[entry.item_id] = item
            audits.setdefault(entry.lane, Counter()).update(_audit(entry))
    return {
        lane: LaneEffects(
            items=items[lane],
            counters=Counters(
                counted=counted["counted"],
                repeats=counted["repeat"],
                ineligible=counted["ineligible"],
                new_items=sum(ItemKey(lane, item_id) not in current for item_id in items[lane]),
            ),
            audits=_tallies(audits.get(lane, Counter())),
        )
        for lane, counted in fates.items()
    }


def retention_rank(lane: Lane, item_id: str) -> float:
    """The item's keyed random number in [0, 1): a stratum keeps the items with the smallest (bottom-k).

    What is kept is then a function of the records alone, with one exception: nothing remembers an evicted question, so
    when it comes back with *another* answer it is new, in that answer's stratum. Whether it had been evicted by then
    depends on what the other partitions had brought.
    """
    return unit_hash(f"keep/{lane}", item_id)


def _audit(entry: Entry) -> list[tuple[str, bool]]:
    """(version, agreed) of an event that was an audit, as a list of at most one."""
    student = entry.event.student
    if student is None or entry.agreed is None or entry.event.escalation.reason != "audit":
        return []
    return [(student.version, entry.agreed)]


def _tallies(counted: Counter[tuple[str, bool]]) -> dict[str, AuditTally]:
    versions = sorted({version for version, _ in counted})
    return {
        version: AuditTally(
            audits=counted[version, True] + counted[version, False],
            agreed=counted[version, True],
        )
        for version in versions
    }
