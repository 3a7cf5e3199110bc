"""The reading half of the embedded log: a lease keeps one reader at work, the store's fence keeps it safe.

There is no sharing of partitions: the first source takes every free one, a second one is its standby.
"""

import contextlib
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Final

import redis

from store.buffer.ledger import Slot
from store.errors import PositionOutsideLogError, StoreUnavailableError
from store.event import wall_clock_s
from stream.embedded.streams import Streams, TopicInfo, pause
from stream.log import Batch, Claimer, Lag, Outcome, Record
from stream.slots import Slots, start_offset

_COMMIT_S: Final = 0.5
_MAX_WAIT_S: Final = 0.5  # well under the socket's time-out


class EmbeddedSource:
    """One reader of a topic."""

    def __init__(self, streams: Streams, topic: str, *, owner: str, claim: Claimer, lease_s: float) -> None:
        self._streams = streams
        self._topic = topic
        self._owner = owner
        self._claim = claim
        self._lease_s = lease_s
        self._info: TopicInfo | None = None
        self._slots = Slots()
        self._held: frozenset[Slot] | None = frozenset()
        self._settled: deque[tuple[Batch, Outcome]] = deque()
        self._next_lease = 0.0  # monotonic seconds
        self._next_commit = 0.0
        self._lag: dict[Slot, Lag] = {}
        self._turn = 0

    def poll(self, timeout_s: float, limit: int) -> list[Batch]:
        """See `stream.log.Source`."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._settle()
                self._renew()
                wait_s = min(deadline, self._next_lease) - time.monotonic()
                if batches := self._read(max(0.0, wait_s), limit):
                    return batches
            except (redis.RedisError, StoreUnavailableError):
                pause(min(deadline, time.monotonic() + self._lease_s / 3))
            if time.monotonic() >= deadline:
                return []

    def done(self, batch: Batch, outcome: Outcome) -> None:
        """See `stream.log.Source`; any thread may call it."""
        self._settled.append((batch, outcome))

    def hold(self, slots: Collection[Slot] | None) -> None:
        """See `stream.log.Source`."""
        self._held = None if slots is None else frozenset(slots)

    def lag(self) -> Mapping[Slot, Lag]:
        """See `stream.log.Source`; the last known while Redis is down."""
        with contextlib.suppress(redis.RedisError):
            self._lag = {slot: self._lag_of(slot, state.applied_offset) for slot, state in self._slots.owned.items()}
        return dict(self._lag)

    def close(self) -> None:
        """Say how far we came and give the leases back."""
        with contextlib.suppress(redis.RedisError):  # the leases run out by themselves
            self._settle()
            self._commit()
            if self._info is not None:
                self._streams.release(self._info, self._owner)
        self._streams.close()
        for slot in self._slots.owned:
            self._slots.drop(slot)

    def _settle(self) -> None:
        while self._settled:
            if self._slots.settle(*self._settled.popleft()) == "moved":
                self._next_lease = 0.0  # claim again now; after `fenced` only at the next renewal, or two would duel
        if time.monotonic() >= self._next_commit:
            self._commit()

    def _commit(self) -> None:
        self._next_commit = time.monotonic() + _COMMIT_S
        for slot, state in self._slots.owned.items():
            self._streams.set_read(slot, state.applied_offset)

    def _renew(self) -> None:
        """Renew the leases each third of their time, follow the topic's uuid, and claim what became ours."""
        if time.monotonic() < self._next_lease:
            return
        self._info = self._streams.info(self._topic)
        mine: list[Slot] = []
        ends: list[int] = []
        if self._info is not None:
            mine, ends = self._streams.lease(self._info, self._owner, self._lease_s)
        for slot, state in self._slots.owned.items():
            # A log that was restored ends below what we read: claiming again finds the gap, or the restored position.
            if slot not in mine or state.read_offset > ends[slot.partition]:
                self._slots.drop(slot)
        for slot in mine:
            if self._slots.get(slot) is None:
                claim = self._claim(slot)
                self._slots.take(slot, claim, start_offset(slot, claim.position, *self._streams.bounds(slot)))
        self._next_lease = time.monotonic() + self._lease_s / 3

    def _read(self, wait_s: float, limit: int) -> list[Batch]:
        open_slots = [
            (slot, state.read_offset)
            for slot, state in self._slots.owned.items()
            if self._held is not None and slot not in self._held
        ]
        if not open_slots:
            pause(time.monotonic() + wait_s)
            return []
        self._turn = (self._turn + 1) % len(open_slots)  # where the limit cuts some off, it is others next time
        found = self._streams.read(open_slots, max(1, limit // len(open_slots)), min(wait_s, _MAX_WAIT_S))
        turned = [*open_slots[self._turn :], *open_slots[: self._turn]]
        ready = [(slot, offset) for slot, offset in turned if found.get(slot)][:limit]
        return [
            self._slots.batch(slot, _dense(slot, found[slot], offset), found[slot][-1].offset + 1)
            for slot, offset in ready
        ]

    def _lag_of(self, slot: Slot, applied_offset: int) -> Lag:
        _, end = self._streams.bounds(slot)
        unread = self._streams.range(slot, applied_offset, 1)
        age_s = max(0.0, wall_clock_s() - unread[0].timestamp_ms / 1000) if unread else 0.0
        return Lag(records=max(0, end - applied_offset), oldest_unread_s=age_s)


def _dense(slot: Slot, records: list[Record], offset: int) -> tuple[Record, ...]:
    """The records, when they go on exactly at `offset`: XREAD silently jumps over what was trimmed."""
    if records[0].offset != offset:
        message = (
            f"{slot.topic}[{slot.partition}]: offset {offset} was trimmed before it was read, the next one kept is "
            f"{records[0].offset}: records are lost; let a person decide to read on"
        )
        raise PositionOutsideLogError(message)
    return tuple(records)
