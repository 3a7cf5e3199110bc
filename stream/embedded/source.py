"""The reading half of the embedded log: a lease keeps one reader at work, the store's fence keeps it safe.

There is no sharing of partitions: the first source takes every free one, a second one is its standby.
"""

import contextlib
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Final

import redis

from store.buffer.ledger import LogSlot
from store.errors import LogUnavailableError, PositionOutsideLogError, StoreUnavailableError
from store.event import wall_clock_s
from stream.embedded.streams import Streams, TopicInfo, pause
from stream.log import Batch, Claimer, CommitOutcome, Dependency, Health, Lag, Remake
from stream.slots import MemberSlots, Owned, start_offset

_COMMIT_S: Final = 0.5
_MAX_WAIT_S: Final = 0.5  # well under the socket's time-out


class EmbeddedSource:
    """One reader of a topic."""

    def __init__(
        self,
        streams: Streams,
        topic: str,
        *,
        owner: str,
        claim: Claimer,
        lease_s: float,
        remake: Remake | None = None,
    ) -> None:
        self._streams = streams
        self._topic = topic
        self._owner = owner
        self._claim = claim
        self._lease_s = lease_s
        self._remake = remake
        self._info: TopicInfo | None = None
        self._slots = MemberSlots()
        self._held: frozenset[LogSlot] | None = frozenset()
        self._settled: deque[tuple[Batch, CommitOutcome]] = deque()
        self._next_lease = 0.0  # monotonic seconds
        self._next_commit = 0.0
        self._faults: dict[Dependency, str] = {}
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
            except (redis.RedisError, LogUnavailableError, StoreUnavailableError) as error:
                self._faults = {"redis" if isinstance(error, StoreUnavailableError) else "log": str(error)}
                pause(min(deadline, time.monotonic() + self._lease_s / 3))
            if time.monotonic() >= deadline:
                return []

    def health(self) -> Health:
        """See `stream.log.Source`."""
        return Health(faults=dict(self._faults), stopped=self._slots.stopped)

    def done(self, batch: Batch, outcome: CommitOutcome) -> None:
        """See `stream.log.Source`; any thread may call it."""
        self._settled.append((batch, outcome))

    def hold(self, slots: Collection[LogSlot] | None) -> None:
        """See `stream.log.Source`."""
        self._held = None if slots is None else frozenset(slots)

    def lag(self) -> Mapping[LogSlot, Lag]:
        """See `stream.log.Source`."""
        try:
            return {slot: self._lag_of(slot, state.applied_offset) for slot, state in self._slots.owned.items()}
        except redis.RedisError as error:
            message = f"Redis: {error}"
            raise LogUnavailableError(message) from error

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
        self._info = self._present()
        mine: list[LogSlot] = []
        ends: list[int] = []
        if self._info is not None:
            mine, ends = self._streams.lease(self._info, self._owner, self._lease_s)
        for slot, state in self._slots.owned.items():
            # A log that was restored ends below what we read: claiming again finds the gap, or the restored position.
            # What is in flight of a slot that broke off is applied first: the log no longer has it.
            if slot not in mine or state.read_offset > ends[slot.partition] or _finished(state):
                self._slots.drop(slot)
        self._slots.release(mine)
        for slot in mine:
            if self._slots.get(slot) is None:
                self._take(slot)
        self._faults = {} if self._info is not None else {"log": f"there is no topic {self._topic}"}
        self._next_lease = time.monotonic() + self._lease_s / 3

    def _present(self) -> TopicInfo | None:
        """The topic as it is now; one that is gone is made again, and read from its beginning."""
        info = self._streams.info(self._topic)
        if info is None and self._remake is not None:
            self._remake(self._topic)
            info = self._streams.info(self._topic)
        return info

    def _take(self, slot: LogSlot) -> None:
        claim = self._claim(slot)
        try:
            self._slots.take(slot, claim, start_offset(slot, claim.position, *self._streams.bounds(slot)))
        except PositionOutsideLogError as error:
            self._slots.stop(slot, str(error))

    def _read(self, wait_s: float, limit: int) -> list[Batch]:
        open_slots = [
            (slot, state.read_offset)
            for slot, state in self._slots.owned.items()
            if self._held is not None and slot not in self._held and not state.broken_off
        ]
        if not open_slots:
            pause(time.monotonic() + wait_s)
            return []
        self._turn = (self._turn + 1) % len(open_slots)  # where the limit cuts some off, it is others next time
        found = self._streams.read(open_slots, max(1, limit // len(open_slots)), min(wait_s, _MAX_WAIT_S))
        turned = [*open_slots[self._turn :], *open_slots[: self._turn]]
        ready = [(slot, offset) for slot, offset in turned if found.get(slot)][:limit]
        batches: list[Batch] = []
        for slot, offset in ready:
            if found[slot][0].offset != offset:  # XREAD silently jumps over what was trimmed
                self._break_off(slot)
            else:
                batches.append(self._slots.batch(slot, tuple(found[slot]), found[slot][-1].offset + 1))
        return batches

    def _break_off(self, slot: LogSlot) -> None:
        """Read no more of a slot; its next claim says what is lost."""
        if (state := self._slots.get(slot)) is not None:
            state.broken_off = True
        self._next_lease = 0.0

    def _lag_of(self, slot: LogSlot, applied_offset: int) -> Lag:
        _, end = self._streams.bounds(slot)
        unread = self._streams.range(slot, applied_offset, 1)
        age_s = max(0.0, wall_clock_s() - unread[0].timestamp_ms / 1000) if unread else 0.0
        return Lag(records=max(0, end - applied_offset), oldest_unread_s=age_s)


def _finished(state: Owned) -> bool:
    """Whether a slot that broke off has nothing in flight any more."""
    return state.broken_off and not state.in_flight
