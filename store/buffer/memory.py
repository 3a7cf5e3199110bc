"""The replay buffer in memory: for tests, and for replaying a log without a Redis."""

from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from threading import Lock

from store.buffer.effects import ItemKey, LaneEffects, effects, keys_read, retention_rank
from store.buffer.item import Item
from store.buffer.ledger import BEGINNING, Application, Applied, AuditTally, Claim, Counters, LogSlot
from store.event import Lane


@dataclass(slots=True)
class _Position:
    fence: int = 0
    next: str = BEGINNING


@dataclass(slots=True)
class _LaneState:
    items: dict[str, Item] = field(default_factory=dict)
    strata: dict[str, list[tuple[float, str]]] = field(default_factory=dict)  # ascending (rank, item id)
    counters: Counters = field(default_factory=Counters)
    audits: dict[str, AuditTally] = field(default_factory=dict)


class MemoryBuffer:
    """Satisfies `store.buffer.ledger.Buffer`; what it holds ends with the process."""

    def __init__(self, k: int) -> None:
        """Keep `k` items per lane and stratum."""
        self._k = k
        self._lock = Lock()
        self._positions: dict[str, dict[LogSlot, _Position]] = defaultdict(dict)
        self._lanes: dict[Lane, _LaneState] = defaultdict(_LaneState)
        self._dead: dict[str, dict[str, int]] = defaultdict(dict)

    def claim(self, use_case: str, slot: LogSlot, owner: str) -> Claim:  # noqa: ARG002 - the owner is for people, in Redis
        """Take a slot over: every earlier fence is void from here on."""
        with self._lock:
            position = self._positions[use_case].setdefault(slot, _Position())
            position.fence += 1
            return Claim(position.fence, position.next)

    def apply(self, application: Application) -> Applied:
        """Apply a batch atomically, exactly once."""
        with self._lock:
            position = self._positions[application.use_case].get(application.slot)
            if position is None or position.fence != application.fence:
                return Applied("fenced", BEGINNING if position is None else position.next)
            if position.next != application.start:
                return Applied("ok" if position.next == application.next else "moved", position.next)
            current = {key: item for key in keys_read(application.entries) if (item := self._find(key)) is not None}
            made = effects(application.entries, current)
            for lane, change in made.items():
                self._change(lane, change)
            dead = self._dead[application.use_case]
            for reason, count in application.dead.items():
                dead[reason] = dead.get(reason, 0) + count
            position.next = application.next
            return Applied("ok", position.next)

    def positions(self, use_case: str) -> Mapping[LogSlot, str]:
        """The stored position of each slot that was ever claimed."""
        with self._lock:
            return {slot: position.next for slot, position in self._positions[use_case].items()}

    def items(self, lane: Lane) -> Iterator[Item]:
        """Every kept item of a lane, in item id order."""
        with self._lock:
            items = sorted(self._lanes[lane].items.items())
        return (item for _, item in items)

    def damaged(self, lane: Lane) -> frozenset[str]:  # noqa: ARG002 - what is in memory is not damaged
        """Nothing."""
        return frozenset()

    def counters(self, lane: Lane) -> Counters:
        """Where the lane's records went."""
        with self._lock:
            return self._lanes[lane].counters

    def dead(self, use_case: str) -> Mapping[str, int]:
        """Dead letters by reason."""
        with self._lock:
            return dict(self._dead[use_case])

    def open_dead(self, use_case: str) -> Mapping[str, int]:
        """All of them: nobody deals with the dead letters of a replay."""
        return self.dead(use_case)

    def audits(self, lane: Lane) -> Mapping[str, AuditTally]:
        """Audits by version of the student."""
        with self._lock:
            return dict(self._lanes[lane].audits)

    def _find(self, key: ItemKey) -> Item | None:
        return self._lanes[key.lane].items.get(key.item_id)

    def _change(self, lane: Lane, change: LaneEffects) -> None:
        state = self._lanes[lane]
        evicted = 0
        for item_id, item in change.items.items():
            if item_id not in state.items:
                insort(state.strata.setdefault(item.stratum, []), (retention_rank(lane, item_id), item_id))
            state.items[item_id] = item
        for stratum in {item.stratum for item in change.items.values()}:
            ranked = state.strata[stratum]
            while len(ranked) > self._k:
                evicted += state.items.pop(ranked.pop()[1]).count
        state.counters = _sum(state.counters, change.counters, Counters(evicted=evicted))
        for version, tally in change.audits.items():
            known = state.audits.get(version, AuditTally())
            state.audits[version] = AuditTally(audits=known.audits + tally.audits, agreed=known.agreed + tally.agreed)


def _sum(*counters: Counters) -> Counters:
    names = [entry.name for entry in fields(Counters)]
    return Counters(**{name: sum(getattr(each, name) for each in counters) for name in names})
