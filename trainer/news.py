"""What is new to learn from: which rows a cycle would draw now, and how many of them the last one did not.

Items ever made will not do: some are too young to be drawn, some were answered under another prompt, some are evicted
before any cycle sees them. A cycle on rows that were all drawn before has nothing to learn.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from store.answers.rules import Drawing, answer_of
from store.buffer.item import Item
from store.buffer.ledger import Buffer, Counters
from store.control import Control, TrainingState
from store.event import Lane
from store.log.lazy import logger

log = logger()

_DIGEST_BYTES: Final = 8
_AHEAD_S: Final = 60.0  # clocks differ by less; what is dated further ahead is said
_EVERY: Final = 500  # items between two signs of life
_REST: Final = 50.0  # times a look's duration, before the next
_LONGEST_REST_S: Final = 300.0
UNKNOWN: Final = 1 << 53  # more items than there are: how many may be new cannot be told without looking


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The rows that a freeze would draw."""

    digests: bytes  # of each row's item id and answer, 8 bytes each, ascending
    waiting: int  # kept items that it would leave out
    matures_s: float  # when the next of these is old enough, Unix seconds; infinite where none will be
    ahead: int  # of these, dated more than a minute ahead


def drawn(items: Iterable[Item], drawing: Drawing, *, alive: Callable[[], None] = lambda: None) -> Drawn:
    """Look at every kept item.

    Args:
        items: of the lane.
        drawing: what a cycle draws now.
        alive: called now and then: there may be a hundred thousand.
    """
    digests: list[bytes] = []
    waiting = ahead = 0
    matures_s = math.inf
    for number, item in enumerate(items):
        if number % _EVERY == 0:
            alive()
        if drawing.draws(item):
            digests.append(_digest(item, drawing))
            continue
        waiting += 1
        if drawing.answers(item):
            matures_s = min(matures_s, item.first_asked_s + drawing.quarantine_s)
            ahead += item.first_asked_s > drawing.now_s + _AHEAD_S
    return Drawn(digests=b"".join(sorted(digests)), waiting=waiting, matures_s=matures_s, ahead=ahead)


def items_at_most(state: TrainingState, counters: Counters, reading: str) -> int:
    """Items there are for the schedule at the very most, without looking at any.

    What is new was counted since the last cycle, or waited then.

    Args:
        state: what the schedule remembers.
        counters: of the lane.
        reading: `Drawing.digest` of what a cycle would draw now.
    """
    if state.counted_at_cycle is None:  # no cycle yet, or one of a release that did not note it
        return max(counters.new_items, state.items_at_cycle)
    if state.prompt_version != reading or counters.counted < state.counted_at_cycle:
        return UNKNOWN
    return state.items_at_cycle + state.waiting_at_cycle + counters.counted - state.counted_at_cycle


def _digest(item: Item, drawing: Drawing) -> bytes:
    answer = answer_of(drawing.answers(item))
    return hashlib.blake2b(
        f"{item.item_id}\0{answer}".encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES
    ).digest()


def fresh(digests: bytes, before: bytes) -> int:
    """How many of the rows were not among those before."""
    return len(_split(digests) - _split(before))


def _split(digests: bytes) -> set[bytes]:
    return {digests[start : start + _DIGEST_BYTES] for start in range(0, len(digests), _DIGEST_BYTES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look at every kept item came to."""

    drawn: Drawn
    before: bytes | None  # rows of the last cycle; None: nobody has noted them
    base: TrainingState
    counters: Counters
    reading: str  # `Drawing.digest` of how answers were read
    again_s: float  # monotonic: before then it is not looked again, whatever comes

    @property
    def items(self) -> int:
        """For the schedule."""
        return items_with(self, self.drawn.digests)

    def still_true(self, state: TrainingState, counters: Counters, drawing: Drawing) -> bool:
        """Whether a new look would come to the same."""
        same = self.base == state and self.counters == counters and self.reading == drawing.digest
        return same and drawing.now_s < self.drawn.matures_s


def items_with(seen: Seen, digests: bytes) -> int:
    """The items that cycles have drawn once one draws these; by those ever made where nobody has noted the rows."""
    if seen.before is None and seen.base.items_at_cycle > 0:
        return max(seen.counters.new_items, seen.base.items_at_cycle)
    return seen.base.items_at_cycle + fresh(digests, seen.before or b"")


class Stock:
    """How many items the schedule of one lane may count with; all of them are looked at only where that can matter.

    A look takes seconds where there are a hundred thousand items: looking takes no more than a fiftieth of the time.
    """

    def __init__(
        self, buffer: Buffer, control: Control, *, monotonic: Callable[[], float], alive: Callable[[], None]
    ) -> None:
        self._buffer = buffer
        self._control = control
        self._monotonic = monotonic
        self._alive = alive
        self._seen: Seen | None = None
        self._ahead = 0

    def known(self, state: TrainingState, counters: Counters, reading: str) -> int:
        """Items there are at most, as far as is known without looking; `reading` as of `items_at_most`."""
        if self._seen is not None and self._seen.base == state:
            return self._seen.items
        most = items_at_most(state, counters, reading)
        return most if most < UNKNOWN else max(counters.new_items, state.items_at_cycle)

    def seen(self, lane: Lane, drawing: Drawing, state: TrainingState, counters: Counters) -> Seen:
        """What a look comes to: the last one if nothing has changed since, else a new one."""
        seen = self._seen
        true = seen is not None and seen.still_true(state, counters, drawing)
        return seen if seen is not None and true else self.look(lane, drawing, state, counters)

    def items(self, lane: Lane, drawing: Drawing, state: TrainingState, counters: Counters) -> int:
        """Items there are: from a look now, or from the last one while it must do."""
        seen = self._seen
        read_alike = seen is not None and seen.base == state and seen.reading == drawing.digest
        if seen is not None and read_alike and self._monotonic() < seen.again_s:
            return seen.items
        return self.seen(lane, drawing, state, counters).items

    def look(self, lane: Lane, drawing: Drawing, state: TrainingState, counters: Counters) -> Seen:
        """Look at every kept item.

        Raises:
            StoreUnavailableError: Redis does not answer.
            CorruptItemError: a stored value disagrees with its checksum.
        """
        started_s = self._monotonic()
        before = self._control.drawn(lane)
        found = drawn(self._buffer.items(lane), drawing, alive=self._alive)
        ended_s = self._monotonic()
        self._seen = Seen(
            drawn=found,
            before=before,
            base=state,
            counters=counters,
            reading=drawing.digest,
            again_s=ended_s + min(_REST * (ended_s - started_s), _LONGEST_REST_S),
        )
        if found.ahead != self._ahead:
            log.warning("questions are dated ahead of now: they wait", lane=str(lane), items=found.ahead)
            self._ahead = found.ahead
        return self._seen
