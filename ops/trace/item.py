"""The item of a question in the replay buffer, as it is kept now, and what the next cycle would do with it."""

from dataclasses import dataclass, replace
from typing import Final

import msgspec
import redis

from ops.answers.kept import ItemShown, LaneItems
from ops.kept.export import drawn_now
from ops.sections import LaneSection
from ops.site import Site
from ops.trace.event import redacted
from ops.trace.log import told_ms
from ops.trace.records import Held, ItemTold, Next, RulingTold
from store.answers.census import State, state_of
from store.answers.rulings import Ruling
from store.buffer.item import MAX_EVENT_IDS, Item
from store.errors import UnderstudyError
from store.event import Escalation
from trainer.snapshot import Snapshot, Split

_SPLITS: Final[dict[Split, str]] = {
    "train": "learns from it",
    "calibrate": "certifies a threshold with it, and does not learn from it",
    "judge": "judges with it, and does not learn from it",
}
_NOT_DRAWN: Final[dict[State, str]] = {
    "quarantined": "in none yet: it was first asked less than trainer.quarantine_s ago",
    "stale": "in none: no answer of a prompt that counts today (`understudy prompt accept` makes older ones count)",
    "retired": "in none: its answer's label was retired",
    "off_list": "in none: its answer's label is off today's list (`understudy labels` tells how it is read)",
    "dropped": "in none: a person has dropped it",
    "fresh": "in none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A lane's items, read once."""

    site: Site
    lane: LaneItems
    now_s: float  # Unix seconds

    @classmethod
    def of(cls, site: Site, client: redis.Redis, section: LaneSection, now_s: float) -> "Kept":
        """Those of now; errors as of `LaneItems.of` and of its items."""
        lane = LaneItems.of(site, client, section, now_s)
        return cls(site=site, lane=replace(lane, kept=list(lane.kept)), now_s=now_s)

    def by_id(self, begun: str) -> list[Item]:
        """The items whose id begins so."""
        return [item for item in self.lane.kept if item.item_id.startswith(begun)]

    def by_event(self, begun: str) -> list[tuple[Item, str]]:
        """The items that know an event whose id begins so, each with the id."""
        return [(item, event) for item in self.lane.kept for event in _events(item) if event.startswith(begun)]

    def told(self, item_id: str, event: Escalation | None, *, applied: bool) -> ItemTold:
        """An item for people.

        Args:
            item_id: its id.
            event: whose way is told; None: of the item alone, or the log no longer has it.
            applied: ingest has read the event.
        """
        item = next(iter(self.by_id(item_id)), None)
        if item is None:
            why = _evicted() if event is None else _gone(event, applied=applied)
            return ItemTold(
                id=item_id,
                kept=None,
                holds_event=None if event is None else "not_there",
                told=why,
                audits=0,
                events=[],
                ruling=self._ruling(item_id),
                next=None,
            )
        held, why = (None, _asked(item)) if event is None else _holds(item, event, applied=applied)
        return ItemTold(
            id=item_id,
            kept=self._shown(item),
            holds_event=held,
            told=why,
            audits=item.count - item.escalated,
            events=[name for _, name in item.event_ids],
            ruling=self._ruling(item_id),
            next=self._next(item),
        )

    def _shown(self, item: Item) -> ItemShown:
        shown = self.lane.shown(self.lane.read(item), self.lane.ruled_by())
        if shown.student is None:
            return shown
        key = self.site.secret.redaction_key(self.lane.section.lane)
        return msgspec.structs.replace(shown, student=redacted(shown.student, key))

    def _ruling(self, item_id: str) -> RulingTold | None:
        number = self.lane.ruled_by().get(item_id)
        found: Ruling | None = next((one for one in self.lane.rulings if one.number == number), None)
        if found is None:
            return None
        at = told_ms(found.time_s * 1000) or ""
        return RulingTold(number=found.number, kind=found.kind, who=found.who, why=found.why, at=at)

    def _next(self, item: Item) -> Next | None:
        """None where nobody can tell: what a cycle needs cannot be read here."""
        try:
            drawn = drawn_now(self.site, self.lane, self.now_s)
        except (UnderstudyError, OSError, ImportError):
            return None
        return next_of(item, drawn, state_of(item, self.lane.drawing)[0])


def next_of(item: Item, drawn: Snapshot, state: State) -> Next:
    """Where a freeze holds an item. Pure."""
    cluster = drawn.clusters.get(item.item_id)
    row = next((one for one in drawn.rows if one.item_id == item.item_id), None)
    if cluster is None:
        return Next(split=None, cluster=None, linked=[], why=_NOT_DRAWN[state])
    linked = sorted(name for name, other in drawn.clusters.items() if other == cluster and name != item.item_id)
    if row is None:
        why = "in none: its label has too few questions yet (trainer.min_items_per_label)"
    else:
        together = f", with {len(linked)} that ask the same in other words" if linked else ""
        why = f"{_SPLITS[row.split]}{together}"
    return Next(split=None if row is None else row.split, cluster=cluster, linked=linked, why=why)


def _events(item: Item) -> set[str]:
    first = item.first_opinion
    return {name for _, name in item.event_ids} | ({first.event_id} if first is not None else set())


def _holds(item: Item, event: Escalation, *, applied: bool) -> tuple[Held | None, str]:
    """Whether an item has counted an event, as far as it remembers."""
    asked = _asked(item)
    if not event.eligible:
        return "ineligible", "not counted: nobody may learn from this event"
    if event.id in _events(item):
        return "counted", f"counted; {asked}"
    if not applied:
        return None, f"ingest has not read the event yet; {asked} before"
    if len(item.event_ids) == MAX_EVENT_IDS:
        return (
            "aged_out",
            f"its question was {asked}; it names its newest {MAX_EVENT_IDS} events, and this is none of them",
        )
    return "not_there", f"its question was {asked}, and this event is none of them: the item began anew since"


def _asked(item: Item) -> str:
    return "asked once" if item.count == 1 else f"asked {item.count} times"


def _gone(event: Escalation, *, applied: bool) -> str:
    if not event.eligible:
        return "none was made: nobody may learn from this event"
    if not applied:
        return "ingest has not read the event yet"
    return _evicted()


def _evicted() -> str:
    return (
        "not in the buffer now: evicted (buffer.items_per_stratum keeps so many), or the buffer was rebuilt or emptied"
        " since"
    )
