"""`understudy trace`: puts together what log, buffer, registry and cycles say of one request."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from ops.exits import RefusedError
from ops.open_log import open_history
from ops.sections import LaneSection
from ops.site import Site
from ops.trace.event import event_told, letter_told, record_told
from ops.trace.item import Kept
from ops.trace.log import Found, Search, search, told_ms
from ops.trace.names import Name, name_of
from ops.trace.records import LetterTold, RecordTold, Traced
from ops.trace.versions import Past, past_of
from ops.wiring.ingest import lane_keys
from store.buffer.item import Entry, Item
from store.buffer.ledger import BEGINNING
from store.buffer.repair.letters import LetterBook
from store.buffer.repair.positions import Positions
from store.event import Lane, wall_clock_s
from store.tasks.tasks import TASKS
from stream.ingest import IngestSettings, triage
from stream.log import History

_NAMED: Final = 5


def trace(site: Site, given: str, sections: Sequence[LaneSection], *, whole: bool) -> Traced:
    """Tell the life of one request.

    Args:
        site: the installation.
        given: the id of an event, a response or an item, or the beginning of it.
        sections: the lanes in which it is looked for.
        whole: read the log from its beginning, whatever the id says.

    Raises:
        RefusedError: it is no id, or the id of nothing that is known, or of more than one thing.
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
        RegistryError, SettingsError: moves, rulings or a prompt cannot be read.
    """
    name = name_of(given)
    with ExitStack() as stack:
        client = stack.enter_context(site.redis_client())
        history = stack.enter_context(open_history(site, client))
        return _Life(site=site, client=client, history=history, sections=sections, name=name).told(whole=whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Life:
    site: Site
    client: redis.Redis
    history: History
    sections: Sequence[LaneSection]
    name: Name

    def told(self, *, whole: bool) -> Traced:
        searches = [
            search(self.history, use_case, self.name, self.site.secret, whole=whole)
            for use_case in sorted({section.use_case for section in self.sections})
        ]
        lanes = {section.lane for section in self.sections}
        found = [one for made in searches for one in made.found if one.event.lane in lanes or self._everywhere]
        buried = [one.found for made in searches for one in made.letters if one.found is not None]
        kept = self._kept(found)
        held = [(lane, *one) for lane, items in kept.items() for one in items.by_event(self.name.text)]
        events = {one.event.id for one in found} | {event for _, _, event in held} | {one.event.id for one in buried}
        items = (
            [(lane, one) for lane, lane_items in kept.items() for one in lane_items.by_id(self.name.text)]
            if self.name.may_be_item
            else []
        )
        self._one_is_meant([*events, *(item.item_id for _, item in items)], searches)
        if items:
            ((lane, item),) = items
            return self._of_item(kept[lane], lane, item, searches)
        (event_id,) = events
        known = [*found, *buried]
        own = [one for one in searches if any(one.use_case == each.event.use_case for each in known)] or searches
        return self._of_event(event_id, found, next(iter(known), None), kept, held, own, searches)

    @property
    def _everywhere(self) -> bool:
        return len(self.sections) == len(self.site.settings.lanes)

    def _kept(self, found: Sequence[Found]) -> dict[Lane, Kept]:
        """The items of the lanes that may hold it: of the event's own, where that is known."""
        wanted = {one.event.lane for one in found}
        now_s = wall_clock_s()
        return {
            section.lane: Kept.of(self.site, self.client, section, now_s)
            for section in self.sections
            if not wanted or section.lane in wanted
        }

    def _of_event(
        self,
        event_id: str,
        found: Sequence[Found],
        first: Found | None,
        kept: dict[Lane, Kept],
        held: Sequence[tuple[Lane, Item, str]],
        own: Sequence[Search],
        searches: Sequence[Search],
    ) -> Traced:
        records, letters = self._records(found, own), self._letters(event_id, own)
        applied = any(one.fate == "applied" for one in records)
        entry = self._entry([*found, *([first] if first else ())])
        lane = first.event.lane if first else next((lane for lane, _, _ in held), None)
        item_id = entry.item_id if entry else next((item.item_id for _, item, _ in held), None)
        told, item, past = None, None, None
        if first is not None:
            section = self._section(first.event.lane)
            told = event_told(self.site, first, entry, TASKS[section.task](section.terms()) if section else None)
        if lane in kept and item_id is not None and lane is not None:
            item = kept[lane].told(item_id, first.event if first else None, applied=applied)
            past = self._past(lane, item_id, found, _asked_s(first, held))
        return Traced(
            named="response" if self.name.response else "event",
            id=event_id,
            event=told,
            records=records,
            letters=letters,
            item=item,
            versions=past.versions if past else [],
            cycles=past.cycles if past else [],
            looked=[one.looked for one in searches],
            notes=[*_notes(first, entry, found, letters, own), *(past.notes if past else ())],
        )

    def _of_item(self, kept: Kept, lane: Lane, item: Item, searches: Sequence[Search]) -> Traced:
        past = self._past(lane, item.item_id, [], item.first_asked_s)
        note = "an item was named: name one of its events for the way of that request"
        return Traced(
            named="item", id=item.item_id, event=None, records=[], letters=[],
            item=kept.told(item.item_id, None, applied=True),
            versions=past.versions, cycles=past.cycles, looked=[one.looked for one in searches],
            notes=[note, *past.notes],
        )  # fmt: skip

    def _past(self, lane: Lane, item_id: str, found: Iterable[Found], since_s: float) -> Past:
        return past_of(self.site, lane, item_id, [(one.slot, one.record.offset) for one in found], since_s)

    def _section(self, lane: Lane) -> LaneSection | None:
        return next((one for one in self.site.settings.lanes if one.lane == lane), None)

    def _entry(self, found: Iterable[Found]) -> Entry | None:
        """The event as ingest keeps it; None where it keeps none of its records."""
        for one in found:
            use_case = one.event.use_case
            entry = triage(
                one.record,
                use_case=use_case,
                lanes=lane_keys(self.site, use_case),
                max_age_s=IngestSettings().max_age_s,
            )
            if isinstance(entry, Entry):
                return entry
        return None

    def _records(self, found: Sequence[Found], own: Sequence[Search]) -> list[RecordTold]:
        told: list[RecordTold] = []
        for use_case in [one.use_case for one in own]:
            positions = self.site.buffer(self.client).positions(use_case)
            skips = Positions(self.client).skips(use_case)
            buried = [one.letter for each in own if each.use_case == use_case for one in each.letters]
            letters = {(letter.slot, letter.offset): letter for letter in buried}
            applied = False
            for one in sorted(_in(found, use_case), key=lambda each: each.record.timestamp_ms):
                letter = letters.get((one.slot, one.record.offset))
                position = positions.get(one.slot, BEGINNING)
                told.append(record_told(one, position, skips, letter, again=applied))
                applied |= told[-1].fate == "applied"
        return told

    def _letters(self, event_id: str, own: Sequence[Search]) -> list[LetterTold]:
        return [
            letter_told(made.use_case, one.letter, decided.get(one.letter.id))
            for made in own
            if made.letters
            for decided in [LetterBook(self.client).decisions(made.use_case)]
            for one in made.letters
            if one.found is None or one.found.event.id == event_id
        ]

    def _one_is_meant(self, names: Sequence[str], searches: Sequence[Search]) -> None:
        """See that one thing is.

        Raises:
            RefusedError: none is, or several are.
        """
        known = sorted(set(names))
        if len(known) > 1:
            shown = ", ".join(known[:_NAMED]) + (f" and {len(known) - _NAMED} more" if len(known) > _NAMED else "")
            message = f"{len(known)} events and items begin with {self.name.text}, one is wanted: {shown}"
            raise RefusedError(message)
        if not known:
            raise RefusedError("\n".join(self._why_nothing(searches)))

    def _why_nothing(self, searches: Sequence[Search]) -> Iterator[str]:
        where = ", ".join(f"{one.looked.topic} ({_looked(one)})" for one in searches)
        yield f"nothing is known of {self.name.text}: looked for in {where}, in dead letters and in the buffer."
        asked_ms, now_ms = self.name.asked_ms, wall_clock_s() * 1000
        if asked_ms is not None and asked_ms > now_ms:
            yield f"By its id it is of {told_ms(asked_ms)}, which is to come: is it an id of this installation?"
            return
        if asked_ms is not None and any(one.misses_ms and one.misses_ms > asked_ms for one in searches):
            yield "The log has deleted records of that time (retention): nobody can tell any more."
            return
        if waiting := spooled_bytes(self.site.settings.state_dir):
            yield f"It may be among the {waiting:,} bytes that wait in the gateway's spool until the log takes them."
        yield (
            "A request that never escalated has no event: the student answered it and no audit was drawn, or nobody"
            " answered it; its answer says so (`event_id` null, no X-Understudy-Event)."
        )
        if self.name.response:
            yield "A response to several texts has the id of its first; each answer names its own event."
        if not all(one.looked.since is None for one in searches):
            yield "With --whole the log is read from its beginning: for an event whose clock was wrong."


def spooled_bytes(state_dir: Path) -> int:
    """What the spools of this machine's processes hold, sent or not."""
    return sum(path.stat().st_size for folder in state_dir.glob("spool*") for path in folder.rglob("*.spool"))


def _looked(one: Search) -> str:
    since = "from its beginning" if one.looked.whole and one.looked.since is None else "as far as it reaches back"
    return f"{one.looked.records:,} records {since if one.looked.since is None else f'since {one.looked.since}'}"


def _in(found: Iterable[Found], use_case: str) -> list[Found]:
    return [one for one in found if one.event.use_case == use_case]


def _asked_s(first: Found | None, held: Sequence[tuple[Lane, Item, str]]) -> float:
    return first.event.time_s if first is not None else min(item.first_asked_s for _, item, _ in held)


def _notes(
    first: Found | None,
    entry: Entry | None,
    found: Sequence[Found],
    letters: Sequence[LetterTold],
    own: Sequence[Search],
) -> Iterator[str]:
    if first is None and any(not one.looked.whole for one in own):
        yield "the log no longer has the event (retention): how it was decided and what it cost is not known"
    elif first is None:
        yield "the log has no record of the event any more: how it was decided and what it cost is not known"
    elif not found:
        yield "the log no longer has the record (retention): what is told of it is the dead letter's"
    if first is not None and entry is None and letters:
        yield f"its texts are not shown here: `understudy dlq show {letters[0].letter.id}` opens the letter, redacted"
    elif first is not None and entry is None:
        yield "by today's settings ingest would not keep it, so its texts are not shown"
    elif entry is not None and letters and not any(one.letter.state == "replayed" for one in letters):
        yield f"by today's settings it would be kept: `understudy dlq replay {letters[0].letter.id}` sends it again"
