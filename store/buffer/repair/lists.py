"""By which labels each slot was read, and from which position on: history is judged by what held then.

That is each lane's list of labels, its task and whether its events might be trained on, and which lanes there were.
Ingest notes it when it claims a slot, before it applies anything there, and only where something has changed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import msgspec
import redis

from store.buffer.keys import available
from store.buffer.ledger import BEGINNING, Claim, LogSlot
from store.event import Lane, Task
from store.log.lazy import logger
from store.tasks.rank import Tolerance
from store.tasks.tasks import BEFORE_NOTES, TASKS, LaneTerms

_log = logger(__name__)


class LabelList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """By what a lane's events were read: the labels that an answer may be, what is the same ranking, and more."""

    labels: list[str]  # the lane's list; none: any
    earlier: list[str] = []  # that rulings tell of
    tolerance: Tolerance | None = None  # None: the one that holds where settings name none
    task: Task | None = None  # of the lane; None: nobody noted it, and it is taken for today's
    training_permitted: bool | None = None  # false: its events were counted, and not kept; None: as with the task

    @staticmethod
    def of(terms: LaneTerms, task: Task | None = None, *, training_permitted: bool | None = None) -> "LabelList":
        """A lane's terms, to be noted."""
        tolerance = None if terms.tolerance == Tolerance() else terms.tolerance
        return LabelList(
            labels=list(terms.labels),
            earlier=list(terms.earlier),
            tolerance=tolerance,
            task=task,
            training_permitted=training_permitted,
        )

    @property
    def terms(self) -> LaneTerms:
        """The terms that were noted."""
        tolerance = self.tolerance or Tolerance()
        return LaneTerms(labels=tuple(self.labels), earlier=tuple(self.earlier), tolerance=tolerance)


class ListsHeld(msgspec.Struct, frozen=True, kw_only=True):
    """The lists of a use case's lanes, from a position of a slot on."""

    slot: LogSlot
    fence: int
    position: str
    lists: dict[str, LabelList]  # by lane
    at_s: float  # Unix seconds
    tasks: tuple[str, ...] = BEFORE_NOTES  # whose events became items; those of others were dead letters, or waited


class Lists:
    """Notes lists. Every method raises StoreUnavailableError while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        """Use an open client with `decode_responses` off."""
        self._redis = client

    def note(
        self, use_case: str, slot: LogSlot, claim: Claim, lists: Mapping[Lane, LabelList], *, now_s: float
    ) -> None:
        """Note the lists of who has just claimed a slot, unless the last one read it by the same."""
        named, tasks = {str(lane): one for lane, one in lists.items()}, tuple(sorted(TASKS))
        before = [one for one in self.held(use_case) if one.slot == slot]
        if before and (before[-1].lists, before[-1].tasks) == (named, tasks):
            return
        held = ListsHeld(slot=slot, fence=claim.fence, position=claim.position, lists=named, at_s=now_s, tasks=tasks)
        with available():
            self._redis.rpush(_key(use_case), msgspec.json.encode(held))

    def held(self, use_case: str) -> list[ListsHeld]:
        """Every change of the lists, in the order of the claims; one that cannot be read is left out, aloud."""
        with available():
            found = cast("list[bytes]", self._redis.lrange(_key(use_case), 0, -1))
        held: list[ListsHeld] = []
        for value in found:
            try:
                held.append(msgspec.json.decode(value, type=ListsHeld))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                _log.error("a record of the lists of labels cannot be read", use_case=use_case, why=str(error))
        return sorted(held, key=lambda one: one.fence)


def list_at(held: Iterable[ListsHeld], slot: LogSlot, offset: int, lane: Lane, today: LabelList) -> LabelList:
    """By which labels a record of a lane was judged, or is where nobody noted it.

    Args:
        held: of `Lists.held`.
        slot: where the record lies.
        offset: of the record.
        lane: whose record it is.
        today: the lane's list now: it holds where nothing is known, and its earlier labels count before the first note.
    """
    known = [(_start(one), one.lists[str(lane)]) for one in held if one.slot == slot and str(lane) in one.lists]
    if not known:
        return today
    if at := [found for start, found in known if start <= offset]:
        return _completed(at[-1], today)
    first = _completed(known[0][1], today)
    return msgspec.structs.replace(first, earlier=list(dict.fromkeys([*first.earlier, *today.earlier])))


def _completed(noted: LabelList, today: LabelList) -> LabelList:
    """What an earlier release did not note is taken for today's."""
    return msgspec.structs.replace(
        noted,
        task=today.task if noted.task is None else noted.task,
        training_permitted=today.training_permitted if noted.training_permitted is None else noted.training_permitted,
    )


def lane_at(held: Iterable[ListsHeld], slot: LogSlot, offset: int, lane: Lane) -> bool:
    """Whether a lane was in the settings when a record was judged; it was where nobody noted it."""
    at = [one for one in held if one.slot == slot and _start(one) <= offset]
    return not at or str(lane) in at[-1].lists


def kept_at(held: Iterable[ListsHeld], slot: LogSlot, offset: int, task: str) -> bool:
    """Whether events of a task became items when a record was judged."""
    at = [one for one in held if one.slot == slot and _start(one) <= offset]
    return task in (at[-1].tasks if at else BEFORE_NOTES)


def former_lanes(held: Iterable[ListsHeld], present: Iterable[Lane]) -> dict[Lane, LabelList]:
    """Lanes that were taken out of the settings, each as it was noted last: their events became items all the same."""
    found: dict[Lane, LabelList] = {}
    for one in held:
        for name, noted in one.lists.items():
            tenant, _, use_case = name.partition("/")
            found[Lane(tenant, use_case)] = noted
    return {lane: noted for lane, noted in found.items() if lane not in set(present)}


def _start(held: ListsHeld) -> int:
    """The first offset that is read by it."""
    return int(held.position) if held.position.isdecimal() else int(BEGINNING)


def lists_of(held: Sequence[ListsHeld], lane: Lane) -> list[tuple[str, ...]]:
    """Every list of labels that a lane is known to have had, oldest first, each once."""
    return list(dict.fromkeys(tuple(one.lists[str(lane)].labels) for one in held if str(lane) in one.lists))


def _key(use_case: str) -> str:
    return f"{{{use_case}}}:lists"
