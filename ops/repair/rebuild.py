"""`understudy buffer rebuild`: a damaged buffer is worked out anew from the log, while ingest is at work.

Where the log reaches back to its first record, all of a lane is. Elsewhere that would throw away what the log no longer
has: only what is damaged is mended then, as far as the log reaches, and what it lacks is named.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final

import msgspec
import redis

from ops.exits import RefusedError
from ops.repair.letters import Letters
from ops.reports import Rebuilt
from store.buffer.item import Entry, Item
from store.buffer.ledger import BEGINNING, Application, AuditTally, Counters, LogSlot
from store.buffer.memory import MemoryBuffer
from store.buffer.redis import RedisBuffer
from store.buffer.repair.lists import LabelList, ListsHeld, kept_at, lane_at, list_at, lists_of
from store.buffer.repair.positions import Positions
from store.buffer.repair.rebuild import Staging, stage_dead, swap
from store.errors import PositionOutsideLogError, StoreUnavailableError
from store.event import DeadReason, Lane, Undecodable, UnknownTask
from store.log.lazy import logger
from store.secrets import ITEM_ID_HEX_DIGITS
from store.tasks.tasks import TASKS
from stream.ingest import LaneKeys, read, triage
from stream.log import History, Record, topic_of
from stream.slots import start_offset

_ATTEMPTS: Final = 20
_BATCH: Final = 500
LISTED: Final = 100
_log = logger(__name__)


@dataclass(kw_only=True)
class Replayed:
    """What ingest would have made of the log, in memory."""

    use_case: str
    keys: Mapping[Lane, LaneKeys]
    history: History
    held: Sequence[ListsHeld]  # by which labels ingest read each slot
    buried_as: Callable[[LogSlot, int], DeadReason]  # for what reason an earlier release buried what it did not keep
    k: int
    max_age_s: float
    records: int = 0
    buffer: MemoryBuffer = field(init=False)
    buried: dict[tuple[LogSlot, int], Undecodable] = field(default_factory=dict)  # by slot and offset
    _fences: dict[LogSlot, int] = field(default_factory=dict)
    _at: dict[LogSlot, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start with nothing read."""
        self.buffer = MemoryBuffer(self.k)

    def read_to(self, positions: Mapping[LogSlot, str]) -> None:
        """Read on, up to these positions.

        Raises:
            RefusedError: one of them is not in the log.
            LogUnavailableError, PositionOutsideLogError, DamagedRecordError: see `History.read`.
        """
        for slot, end in positions.items():
            begin, last = (int(bound) for bound in self.history.bounds(slot))
            if end == BEGINNING:
                continue
            try:
                start_offset(slot, end, begin, last)
            except PositionOutsideLogError as error:
                message = f"{error}. Do that before you rebuild"
                raise RefusedError(message) from error
            start = self._at.get(slot, str(begin))
            batch: list[Record] = []
            for record in self.history.read(slot, start, end) if int(start) < int(end) else ():
                batch.append(record)
                if len(batch) == _BATCH:
                    self._apply(slot, batch, str(record.offset + 1))
                    batch = []
            self._apply(slot, batch, end)
            self._at[slot] = end

    def _apply(self, slot: LogSlot, records: Sequence[Record], end: str) -> None:
        entries: list[Entry] = []
        dead: Counter[DeadReason] = Counter()
        for record in records:
            match found := self._judged(slot, record):
                case Entry():
                    entries.append(found)
                case Undecodable():
                    dead[found.reason] += 1
                    self.buried[slot, record.offset] = found
        self.records += len(records)
        if slot not in self._fences:
            self._fences[slot] = self.buffer.claim(self.use_case, slot, "rebuild").fence
        start = self.buffer.positions(self.use_case)[slot]
        self.buffer.apply(
            Application(
                use_case=self.use_case,
                slot=slot,
                fence=self._fences[slot],
                start=start,
                next=end,
                entries=tuple(entries),
                dead=dead,
            )
        )

    def _judged(self, slot: LogSlot, record: Record) -> Entry | Undecodable:
        """What became of a record when it was applied."""
        if self._was_buried(slot, record):
            return self._of_its_task(slot, record.offset)
        lanes = self._judged_by(slot, record.offset)
        found = triage(record, use_case=self.use_case, lanes=lanes, max_age_s=self.max_age_s)
        if isinstance(found, UnknownTask):  # applied before: a release that did not wait has buried it
            return self._of_its_task(slot, record.offset)
        return found

    def _of_its_task(self, slot: LogSlot, offset: int) -> Undecodable:
        return Undecodable(reason=self.buried_as(slot, offset), detail="of a task that was not kept then")

    def _was_buried(self, slot: LogSlot, record: Record) -> bool:
        """Whether a record was applied by a release that buried what it holds, for its task."""
        if all(kept_at(self.held, slot, record.offset, task) for task in TASKS):
            return False
        found = read(record, self.use_case)
        return not isinstance(found, Undecodable | UnknownTask) and not kept_at(
            self.held, slot, record.offset, found.task
        )

    def _judged_by(self, slot: LogSlot, offset: int) -> dict[Lane, LaneKeys]:
        """The lanes that there were when a record was applied, each with what held for it then."""
        judged: dict[Lane, LaneKeys] = {}
        for lane, keys in self.keys.items():
            if not lane_at(self.held, slot, offset, lane):
                continue  # it was put into the settings later: the record was a dead letter
            today = LabelList.of(keys.terms, keys.task, training_permitted=keys.training_permitted)
            at = list_at(self.held, slot, offset, lane, today)
            judged[lane] = replace(
                keys,
                terms=at.terms,
                task=at.task or keys.task,
                training_permitted=at.training_permitted is not False,
            )
        return judged


def reaches_back(use_case: str, history: History, buffer: RedisBuffer, client: redis.Redis) -> bool:
    """Whether the log holds every record that was ever applied."""
    slots = history.slots(topic_of(use_case))
    stored = buffer.positions(use_case)
    applied_elsewhere = any(at != BEGINNING for slot, at in stored.items() if slot not in slots)
    cut = any(int(history.bounds(slot)[0]) for slot in slots)
    return not (applied_elsewhere or cut or Positions(client).skips(use_case))


@dataclass(kw_only=True)
class Rebuild:
    """One use case's lanes, rebuilt."""

    client: redis.Redis
    buffer: RedisBuffer
    said: Replayed
    lanes: Sequence[Lane]
    letters: Letters
    whole: bool  # work out every item anew although the log has lost its beginning

    def plan(self) -> list[Rebuilt]:
        """What `run` would do.

        Raises:
            RefusedError: a position is not in the log.
            StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
        """
        self.said.read_to(self._positions())
        complete = self._complete()
        wanted = {
            lane: self._wanted(lane, Staging(self.client, lane), whole=complete or self.whole) for lane in self.lanes
        }
        return [self._report(lane, wanted[lane], complete=complete, done=False) for lane in self.lanes]

    def run(self, *, who: str, why: str) -> list[Rebuilt]:
        """Rebuild; errors are those of `plan`."""
        self.said.read_to(self._positions())  # nearly all of it, before ingest is held up
        complete = self._complete()
        whole = complete or self.whole
        stagings = {lane: Staging(self.client, lane) for lane in self.lanes}
        for lane, staging in stagings.items():
            staging.clear()
            staging.stage(self._wanted(lane, staging, whole=whole).items)
        for _ in range(_ATTEMPTS):
            claims = {slot: self.buffer.claim(self.said.use_case, slot, "buffer rebuild") for slot in self._positions()}
            self.said.read_to({slot: claim.position for slot, claim in claims.items()})
            wanted = {lane: self._wanted(lane, staging, whole=whole) for lane, staging in stagings.items()}
            reports = [self._report(lane, wanted[lane], complete=complete, done=True) for lane in self.lanes]
            for lane, staging in stagings.items():
                staging.put(wanted[lane].items, wanted[lane].drop, wanted[lane].counters, wanted[lane].audits)
            if complete:
                settled = self.letters.reconcile(self.said.history, self.said.buried)
                stage_dead(self.client, self.said.use_case, self.said.buffer.dead(self.said.use_case), settled)
            fences = {slot: claim.fence for slot, claim in claims.items()}
            if swap(self.client, self.said.use_case, fences, dict.fromkeys(self.lanes, whole), dead=complete):
                for report in reports:
                    _log.warning("the buffer was rebuilt", who=who, why=why, **msgspec.structs.asdict(report))
                return reports
        for staging in stagings.values():
            staging.clear()
        message = f"ingest was faster in each of {_ATTEMPTS} tries: stop it, or try again with less traffic"
        raise StoreUnavailableError(message)

    def _positions(self) -> dict[LogSlot, str]:
        """Of the topic as it is now."""
        stored = self.buffer.positions(self.said.use_case)
        return {slot: stored.get(slot, BEGINNING) for slot in self.said.history.slots(topic_of(self.said.use_case))}

    def _complete(self) -> bool:
        return reaches_back(self.said.use_case, self.said.history, self.buffer, self.client)

    def _wanted(self, lane: Lane, staging: Staging, *, whole: bool) -> "_Wanted":
        """What a lane should hold."""
        anew = {item.item_id: item for item in self.said.buffer.items(lane)}
        before = staging.kept_ids()
        strata = {item.item_id: item.stratum for item in self.buffer.items(lane)}  # notes what is damaged, too
        ranked = strata.keys()
        damaged = self.buffer.damaged(lane)
        counters, audits = self.said.buffer.counters(lane), self.said.buffer.audits(lane)
        if whole:
            return _Wanted(
                items=anew,
                drop=before,
                counters=counters,
                audits=audits,
                damaged=damaged,
                before=len(before),
                after=len(anew),
                dropped=self._off_list(lane, [strata[name] for name in ranked - anew.keys()]),
            )
        names = {name for name in damaged if _is_item(name)}
        strays = staging.sound(before - ranked - names)  # their stratum was lost
        items = {name: anew[name] for name in names & anew.keys()} | strays
        return _Wanted(
            items=items,
            drop=names | strays.keys(),
            counters=_more(self.buffer.counters(lane), counters) if _any(damaged, "counters") else None,
            audits=_most(self.buffer.audits(lane), audits) if _any(damaged, "audits") else None,
            damaged=damaged,
            lost=sorted(names - anew.keys()),
            after=len((before - names) | items.keys()),
            before=len(before),
        )

    def _off_list(self, lane: Lane, strata: Iterable[str]) -> dict[str, int]:
        """Of items that go, by label: those whose label is on no list that is known to have held, and in no ruling."""
        terms = self.said.keys[lane].terms
        known = {*terms.labels, *terms.earlier}.union(*lists_of(self.said.held, lane))
        return dict(Counter(label for label in strata if known and label not in known))

    def _report(self, lane: Lane, wanted: "_Wanted", *, complete: bool, done: bool) -> Rebuilt:
        return Rebuilt(
            lane=str(lane),
            complete=complete,
            records=self.said.records,
            damaged=sorted(wanted.damaged)[:LISTED],
            mended=len(wanted.items),
            lost=wanted.lost[:LISTED],
            items_before=wanted.before,
            items_after=wanted.after,
            done=done,
            dropped=dict(wanted.dropped),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What one lane should hold: everything, or only what is to be put and to go."""

    items: Mapping[str, Item]
    drop: Collection[str]
    counters: Counters | None  # None: as they are
    audits: Mapping[str, AuditTally] | None
    damaged: frozenset[str]
    lost: list[str] = field(default_factory=list)
    before: int
    after: int
    dropped: Mapping[str, int] = field(default_factory=dict)  # label -> items that go, being off every known list


def _is_item(name: str) -> bool:
    """Whether what was found damaged is an item, by its name."""
    return len(name) == ITEM_ID_HEX_DIGITS and not name.strip("0123456789abcdef")


def _any(damaged: Iterable[str], kind: str) -> bool:
    return any(name.split(":")[0] == kind for name in damaged)


def _more(kept: Counters, anew: Counters) -> Counters:
    """Of each counter the larger: what could not be read is 0, and what began anew is behind."""
    return Counters(
        **{entry.name: max(getattr(kept, entry.name), getattr(anew, entry.name)) for entry in fields(Counters)}
    )


def _most(kept: Mapping[str, AuditTally], anew: Mapping[str, AuditTally]) -> dict[str, AuditTally]:
    """Of each version the tally with more audits."""
    none = AuditTally()
    return {
        version: max(kept.get(version, none), anew.get(version, none), key=lambda tally: tally.audits)
        for version in sorted(kept.keys() | anew.keys())
    }
