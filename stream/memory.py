"""The log in memory: for tests, and the measure of what the other logs must do."""

import threading
import uuid
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic

from store.buffer.ledger import LogSlot
from store.errors import LogUnavailableError, PositionOutsideLogError, StoreUnavailableError
from store.event import wall_clock_s
from stream.log import Batch, Claimer, CommitOutcome, Dependency, Headers, Health, Lag, Record, Remake
from stream.outbox import MAX_RECORD_BYTES, Outgoing, partition_of, too_large
from stream.slots import MemberSlots, start_offset


@dataclass(slots=True, kw_only=True)
class _Partition:
    begin: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.begin + len(self.records)

    def read(self, start: int, limit: int) -> tuple[Record, ...]:
        return tuple(self.records[start - self.begin : start - self.begin + limit])


@dataclass(slots=True, kw_only=True)
class _Topic:
    uuid: str
    partitions: list[_Partition]


class MemoryLog:
    """Appender, History and Topics over lists; `source` joins a group."""

    def __init__(self, *, max_record_bytes: int = MAX_RECORD_BYTES) -> None:
        self._max_record_bytes = max_record_bytes
        self._topics: dict[str, _Topic] = {}
        self._members: dict[tuple[str, str], list[MemorySource]] = {}
        self._changed = threading.Condition()
        self.down = False  # for tests: it does not answer

    def ensure(self, topic: str, partitions: int) -> None:
        """Create the topic unless it is there."""
        with self._changed:
            if topic not in self._topics:
                made = [_Partition() for _ in range(partitions)]
                self._topics[topic] = _Topic(uuid=str(uuid.uuid4()), partitions=made)

    def append(
        self, topic: str, *, key: bytes, value: bytes, headers: Headers = (), timestamp_ms: int | None = None
    ) -> Future[None]:
        """See `stream.log.Appender`."""
        stamp_ms = int(wall_clock_s() * 1000) if timestamp_ms is None else timestamp_ms
        outgoing = Outgoing(topic=topic, key=key, value=value, headers=headers, timestamp_ms=stamp_ms)
        if (error := too_large(outgoing, self._max_record_bytes)) is not None:
            return outgoing.refuse(error)
        with self._changed:
            if self.down:
                return outgoing.refuse(LogUnavailableError("the log in memory is down"))
            if (found := self._topics.get(topic)) is None:
                return outgoing.refuse(LogUnavailableError(f"no topic {topic}: make it with Topics.ensure"))
            number = partition_of(key, len(found.partitions))
            partition = found.partitions[number]
            record = Record(
                topic=topic,
                partition=number,
                offset=partition.end,
                key=key,
                value=value,
                headers=headers,
                timestamp_ms=stamp_ms,
            )
            partition.records.append(record)
            self._changed.notify_all()
        outgoing.done.set_result(None)
        return outgoing.done

    def slots(self, topic: str) -> list[LogSlot]:
        """See `stream.log.History`."""
        found = self._topics.get(topic)
        return [] if found is None else [LogSlot(topic, found.uuid, n) for n in range(len(found.partitions))]

    def bounds(self, slot: LogSlot) -> tuple[str, str]:
        """See `stream.log.History`."""
        partition = self._partition(slot)
        return str(partition.begin), str(partition.end)

    def read(self, slot: LogSlot, start: str, end: str) -> Iterator[Record]:
        """See `stream.log.History`."""
        partition = self._partition(slot)
        first = start_offset(slot, start, partition.begin, partition.end)
        yield from partition.read(first, int(end) - first)

    def source(self, topic: str, group: str, claim: Claimer, *, remake: Remake | None = None) -> "MemorySource":
        """A new member of the group; partitions are dealt out among its members in turn."""
        return MemorySource(self, topic, group, claim, remake)

    def close(self) -> None:
        """Nothing to stop."""

    def _partition(self, slot: LogSlot) -> _Partition:
        found = self._topics.get(slot.topic)
        if found is None or found.uuid != slot.uuid:
            message = f"topic {slot.topic} was deleted or made anew: look its slots up again"
            raise LogUnavailableError(message)
        return found.partitions[slot.partition]


class MemorySource:
    """One member of a group."""

    def __init__(self, log: MemoryLog, topic: str, group: str, claim: Claimer, remake: Remake | None) -> None:
        self._log = log
        self._remake = remake
        self._topic = topic
        self._claim = claim
        self._members = log._members.setdefault((topic, group), [])  # noqa: SLF001 - the log's other half
        self._members.append(self)
        self._slots = MemberSlots()
        self._held: frozenset[LogSlot] | None = frozenset()
        self._settled: deque[tuple[Batch, CommitOutcome]] = deque()
        self._faults: dict[Dependency, str] = {}

    def poll(self, timeout_s: float, limit: int) -> list[Batch]:
        """See `stream.log.Source`."""
        deadline = monotonic() + timeout_s
        changed = self._log._changed  # noqa: SLF001 - the log's other half
        while True:
            while self._settled:
                self._slots.settle(*self._settled.popleft())
            self._faults = {"log": "the log in memory is down"} if self._log.down else {}
            if not self._log.down:
                self._follow_assignment()
            with changed:
                batches = [] if self._faults else self._read(limit)
                remaining_s = deadline - monotonic()
                if batches or remaining_s <= 0:
                    return batches
                changed.wait(min(remaining_s, 0.05))  # a change of members does not notify

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
        if self._log.down:
            message = "the log in memory is down"
            raise LogUnavailableError(message)
        return {slot: self._lag_of(slot, owned.applied_offset) for slot, owned in self._slots.owned.items()}

    def close(self) -> None:
        """Leave the group."""
        if self in self._members:
            self._members.remove(self)
        for slot in self._slots.owned:
            self._slots.drop(slot)

    def _follow_assignment(self) -> None:
        if self not in self._members:
            return  # expelled: like a zombie it goes on reading, and its fences stop it
        mine = {
            slot for slot in self._log.slots(self._topic) if self._members[slot.partition % len(self._members)] is self
        }
        if not self._log.slots(self._topic):
            self._faults["log"] = f"there is no topic {self._topic}"
            if self._remake is not None:
                self._remake(self._topic)
        owned = self._slots.owned
        for slot, state in owned.items():
            if slot not in mine or (state.broken_off and not state.in_flight):
                self._slots.drop(slot)
        self._slots.release(mine)
        for slot in sorted(mine - self._slots.owned.keys()):
            try:
                self._take(slot)
            except StoreUnavailableError as error:
                self._faults["redis"] = str(error)
                return  # the next poll claims again

    def _take(self, slot: LogSlot) -> None:
        claim = self._claim(slot)
        begin, end = self._log.bounds(slot)
        try:
            self._slots.take(slot, claim, start_offset(slot, claim.position, int(begin), int(end)))
        except PositionOutsideLogError as error:
            self._slots.stop(slot, str(error))

    def _read(self, limit: int) -> list[Batch]:
        batches: list[Batch] = []
        for slot, state in self._slots.owned.items():
            if limit <= 0 or self._held is None or slot in self._held or slot not in self._log.slots(self._topic):
                continue
            partition = self._log._partition(slot)  # noqa: SLF001
            state.broken_off |= not partition.begin <= state.read_offset <= partition.end
            if state.broken_off:
                continue
            records = partition.read(state.read_offset, limit)
            if records:
                batches.append(self._slots.batch(slot, records, records[-1].offset + 1))
                limit -= len(records)
        return batches

    def _lag_of(self, slot: LogSlot, applied_offset: int) -> Lag:
        if slot not in self._log.slots(self._topic):
            return Lag(records=0, oldest_unread_s=0.0)
        partition = self._log._partition(slot)  # noqa: SLF001
        unread = partition.read(applied_offset, 1)
        age_s = max(0.0, wall_clock_s() - unread[0].timestamp_ms / 1000) if unread else 0.0
        return Lag(records=partition.end - applied_offset, oldest_unread_s=age_s)
