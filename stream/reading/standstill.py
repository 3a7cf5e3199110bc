"""Slots that stand still at an event of a task that this release does not keep.

Like any transient fault it blocks and loses nothing, but its own partition alone. Such a slot is held, and now and then
claimed and read again: a person may have skipped the record. An upgrade is a restart, and begins with nothing noted.
Pure: times are monotonic seconds that the caller brings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from store.buffer.ledger import LogSlot
from store.retry.backoff import Backoff
from stream.log import Batch

_FORGET_S: Final = 60.0  # after a second look that brought nothing: another member has the slot now


@dataclass(slots=True, kw_only=True)
class _Still:
    """One slot."""

    rest: Batch  # what could not be taken, from the event on
    why: str
    looks: int  # in a row that found the same
    until_s: float  # while held: of the next look; while looked at: of being forgotten
    held: bool = True


class Standstills:
    """What stands still. `why` may be called from any thread, the rest from one."""

    def __init__(self, backoff: Backoff, rng: Random) -> None:
        """Nothing stands still; `backoff` says how long after each look the next one is."""
        self._backoff = backoff
        self._rng = rng
        self._still: dict[LogSlot, _Still] = {}

    @property
    def why(self) -> Mapping[LogSlot, str]:
        """What stands still, and why; a copy."""
        return {slot: still.why for slot, still in self._still.copy().items()}

    @property
    def held(self) -> tuple[LogSlot, ...]:
        """The slots that are not to be read now."""
        return tuple(sorted(slot for slot, still in self._still.items() if still.held))

    def stop(self, rest: Batch, why: str, now_s: float) -> None:
        """Let a slot stand still; `rest` is its batch from the event on."""
        before = self._still.get(rest.slot)
        looks = 1 if before is None or before.rest.records[0].offset != rest.records[0].offset else before.looks + 1
        until_s = now_s + self._backoff.delay_s(looks, self._rng)
        self._still[rest.slot] = _Still(rest=rest, why=why, looks=looks, until_s=until_s)

    def passed(self, slot: LogSlot) -> None:
        """Note that a batch of the slot was taken whole."""
        self._still.pop(slot, None)

    def precedes(self, batch: Batch) -> bool:
        """Whether a batch was read under the claim under which its slot stands still."""
        still = self._still.get(batch.slot)
        return still is not None and still.rest.fence == batch.fence

    def due(self, now_s: float) -> list[Batch]:
        """What is to be given back to the log now, so that it is claimed and read again."""
        again: list[Batch] = []
        for slot, still in list(self._still.items()):
            if now_s < still.until_s:
                continue
            if still.held:
                still.held, still.until_s = False, now_s + _FORGET_S
                again.append(still.rest)
            else:
                del self._still[slot]
        return again
