"""What a member owns and how far each slot has come: the bookkeeping that every log's source shares.

Pure: no clock, no network. A batch starts where the one before it ended, and the first one at the stored position.
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from store.buffer.ledger import BEGINNING, Claim, LogSlot
from store.errors import PositionOutsideLogError
from stream.log import Batch, CommitOutcome, Record

Settled = Literal["kept", "fenced", "moved", "stale"]


@dataclass(slots=True, kw_only=True)
class Owned:
    """One owned slot."""

    fence: int
    position: str  # where the next batch starts, as the store has it
    read_offset: int  # the next offset to read
    applied_offset: int  # everything below was applied
    in_flight: deque[tuple[str, int]] = field(default_factory=deque)  # (next, timestamp of the first record, Unix ms)
    broken_off: bool = False  # the log has no record at `read_offset`: claimed anew once nothing is in flight


class MemberSlots:
    """The slots of one member."""

    def __init__(self) -> None:
        self._owned: dict[LogSlot, Owned] = {}
        self._stopped: dict[LogSlot, str] = {}

    @property
    def owned(self) -> Mapping[LogSlot, Owned]:
        """What is owned now; a copy, so that another thread may look."""
        return dict(self._owned)

    @property
    def stopped(self) -> Mapping[LogSlot, str]:
        """What would be owned, but stands still until a person has decided, and why; a copy."""
        return dict(self._stopped)

    def get(self, slot: LogSlot) -> Owned | None:
        """The slot's state while it is owned."""
        return self._owned.get(slot)

    def take(self, slot: LogSlot, claim: Claim, offset: int) -> None:
        """Own a slot that was claimed; reading goes on at `offset`."""
        self._stopped.pop(slot, None)
        self._owned[slot] = Owned(fence=claim.fence, position=claim.position, read_offset=offset, applied_offset=offset)

    def stop(self, slot: LogSlot, why: str) -> None:
        """Leave a slot alone: nothing of it is read until it is claimed and taken."""
        self.drop(slot)
        self._stopped[slot] = why

    def release(self, mine: Collection[LogSlot]) -> None:
        """Forget what stands still and is no longer ours to read."""
        for slot in self._stopped.keys() - set(mine):
            del self._stopped[slot]

    def drop(self, slot: LogSlot) -> None:
        """Forget a slot with its fence: what is still in flight of it will be refused by the store."""
        self._owned.pop(slot, None)
        self._stopped.pop(slot, None)

    def batch(self, slot: LogSlot, records: tuple[Record, ...], next_offset: int) -> Batch:
        """The next batch of an owned slot; `records` is not empty."""
        state = self._owned[slot]
        batch = Batch(slot=slot, fence=state.fence, start=state.position, next=str(next_offset), records=records)
        state.position = batch.next
        state.read_offset = next_offset
        state.in_flight.append((batch.next, records[0].timestamp_ms))
        return batch

    def settle(self, batch: Batch, outcome: CommitOutcome) -> Settled:
        """Note what became of a batch; `stale` when its claim is no longer the present one."""
        state = self._owned.get(batch.slot)
        if state is None or state.fence != batch.fence:
            return "stale"
        if outcome == "ok":
            state.applied_offset = int(batch.next)
            while state.in_flight and int(state.in_flight[0][0]) <= state.applied_offset:
                state.in_flight.popleft()
            return "kept"
        self.drop(batch.slot)
        return outcome


def start_offset(slot: LogSlot, position: str, begin: int, end: int) -> int:
    """The offset to read from at a stored position.

    Raises:
        PositionOutsideLogError: records between the position and the log's beginning are gone, or the log has lost its
            tail. Reading on would hide the loss.
    """
    if position == BEGINNING:
        return begin
    name = f"{slot.topic}[{slot.partition}]"
    if not position.isascii() or not position.isdecimal():
        message = f"{name}: the stored position {position!r} is damaged: `understudy ingest skip` sets another"
        raise PositionOutsideLogError(message)
    offset = int(position)
    if offset < begin:
        message = (
            f"{name}: the stored position is {offset}, but the log begins at {begin}: {begin - offset} records were "
            "deleted before they were read. Lengthen the log's retention; `understudy ingest skip` reads on"
        )
        raise PositionOutsideLogError(message)
    if offset > end:
        message = (
            f"{name}: the stored position is {offset}, but the log ends at {end}: it has lost records that were "
            "already applied. Restore the log, or read on with `understudy ingest skip`"
        )
        raise PositionOutsideLogError(message)
    return offset
