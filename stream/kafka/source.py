"""One member of a Kafka consumer group. Kafka deals partitions out; the store's fences alone make that safe.

A partition that was just assigned is paused at offset 0 until the poll thread has claimed it, so not one record is
read before the claim. Kafka's own committed offsets serve restarts and lag displays only.
"""

import math
import re
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kafka.errors import CorruptRecordError, KafkaError, LogTruncationError, OffsetOutOfRangeError

from store.buffer.ledger import LogSlot
from store.errors import LogError, LogUnavailableError, PositionOutsideLogError, StoreError, StoreUnavailableError
from store.event import wall_clock_s
from store.log.lazy import logger
from stream.kafka.cluster import KafkaSettings, record_of
from stream.kafka.member import Connecting, Member
from stream.log import Batch, Claimer, CommitOutcome, Dependency, Health, Lag, Remake
from stream.slots import MemberSlots, start_offset

_SLICE_S: Final = 0.25
_COMMIT_S: Final = 0.5
_PROBE_S: Final = 0.5
_CHECK_S: Final = 5.0  # the topic's uuid and the ends of its partitions are asked for
_LOOK_AGAIN_S: Final = 1.0  # while something is wrong
_BROKEN_S: Final = 5.0  # a damaged partition is tried again: it may have been repaired, or stepped over

_log = logger(__name__)


@dataclass(slots=True, kw_only=True)
class _Broken:
    """Where a partition could not be read."""

    offset: int
    again_s: float  # monotonic; infinite while it is being tried
    why: str


_READABLE: Final = _Broken(offset=0, again_s=math.inf, why="")


class KafkaSource:
    """One member. `done`, `hold` and `lag` may be called from any thread, the others from one."""

    def __init__(self, settings: KafkaSettings, topic: str, claim: Claimer, *, remake: Remake | None = None) -> None:
        """Begin to connect; `poll` gives nothing until that is done. `remake` is asked for a missing topic."""
        self._remake = remake
        self._topic = topic
        self._claim = claim
        self._connecting = Connecting(settings, topic)
        self._member: Member | None = None
        self._slots = MemberSlots()
        self._unclaimed: set[int] = set()  # assigned to us, not yet claimed
        self._doubtful: dict[int, int] = {}  # partition -> offset: fenced, so a commit must prove the membership
        self._broken: dict[int, _Broken] = {}  # partition -> why it cannot be read
        self._look_again: dict[int, float] = {}  # stands still: unclaimed partition -> monotonic s
        self._ends: dict[int, int] = {}
        self._faults: dict[Dependency, str] = {}
        self._held: frozenset[LogSlot] | None = frozenset()
        self._settled: deque[tuple[Batch, CommitOutcome]] = deque()
        self._committed: dict[int, int] = {}
        self._next_commit = 0.0  # monotonic seconds
        self._next_probe = 0.0
        self._next_check = 0.0
        self._behind_since: dict[LogSlot, float] = {}

    def poll(self, timeout_s: float, limit: int) -> list[Batch]:
        """See `stream.log.Source`."""
        deadline = time.monotonic() + timeout_s
        while True:
            slice_s = min(_SLICE_S, max(0.0, deadline - time.monotonic()))
            if self._member is None:
                self._member = self._connecting.wait(slice_s)
                self._faults = {} if self._member else {"log": self._connecting.trouble}
            elif batches := self._poll_once(self._member, slice_s, limit):
                return batches
            if time.monotonic() >= deadline:
                return []

    def done(self, batch: Batch, outcome: CommitOutcome) -> None:
        """See `stream.log.Source`."""
        self._settled.append((batch, outcome))

    def hold(self, slots: Collection[LogSlot] | None) -> None:
        """See `stream.log.Source`."""
        self._held = None if slots is None else frozenset(slots)

    def health(self) -> Health:
        """See `stream.log.Source`."""
        broken = {
            slot: self._broken[slot.partition].why for slot in self._slots.owned if slot.partition in self._broken
        }
        return Health(faults=dict(self._faults), stopped={**self._slots.stopped, **broken})

    def lag(self) -> Mapping[LogSlot, Lag]:
        """See `stream.log.Source`. The age is that of the oldest record in hand, else the time since we fell behind."""
        member = self._member
        if member is None or "log" in self._faults:
            raise LogUnavailableError(self._faults.get("log", "not connected to Kafka yet"))
        found = {slot: self._lag_of(member, slot) for slot in self._slots.owned}
        return {slot: lag for slot, lag in found.items() if lag is not None}

    def close(self) -> None:
        """Commit what was applied and leave the group, within seconds even while the broker is down."""
        if self._member is None:
            self._connecting.cancel()
            return
        self._settle(self._member)
        self._member.leave(self._uncommitted())
        for slot in self._slots.owned:
            self._slots.drop(slot)

    def _poll_once(self, member: Member, timeout_s: float, limit: int) -> list[Batch]:
        began = time.monotonic()
        self._settle(member)
        self._follow(member)
        try:
            self._prove(member)
            self._claim_new(member)
            self._pause(member)
            found = member.fetch(timeout_s, limit)
            self._follow(member)
            return self._batches(member, found)
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            for partition in _partitions_in(error) or member.assigned():
                self._break_off(member, partition)
            return []
        except CorruptRecordError as error:
            self._set_aside(member, error)
            return []
        except (KafkaError, LogUnavailableError, StoreUnavailableError) as error:
            self._faults["redis" if isinstance(error, StoreUnavailableError) else "log"] = _said(error)
            self._next_check = min(self._next_check, time.monotonic() + _LOOK_AGAIN_S)
            time.sleep(max(0.0, began + timeout_s - time.monotonic()))
            return []

    def _settle(self, member: Member) -> None:
        while self._settled:
            batch, outcome = self._settled.popleft()
            settled = self._slots.settle(batch, outcome)
            if settled == "moved":
                self._claim_again(member, batch.slot.partition)
            elif settled == "fenced":
                # Never claim again at once: two zombies would fence each other for ever.
                member.park(batch.slot.partition)
                self._doubtful[batch.slot.partition] = max(0, int(batch.start))
        for slot, state in self._slots.owned.items():
            if state.broken_off and not state.in_flight:
                self._claim_again(member, slot.partition)  # its check of the bounds says what is lost
        if time.monotonic() >= self._next_commit:
            self._next_commit = time.monotonic() + _COMMIT_S
            if (offsets := self._uncommitted()) and member.commit_later(offsets):
                self._committed |= offsets

    def _follow(self, member: Member) -> None:
        """Take note of what the group assigned and took away."""
        for sign, partition in member.changes():
            self._forget(partition)
            self._broken.pop(partition, None)
            if sign == "+":
                self._unclaimed.add(partition)

    def _forget(self, partition: int) -> None:
        for slot in (*self._slots.owned, *self._slots.stopped):
            if slot.partition == partition:
                self._slots.drop(slot)
        self._unclaimed.discard(partition)
        self._look_again.pop(partition, None)
        self._ends.pop(partition, None)
        self._doubtful.pop(partition, None)
        self._committed.pop(partition, None)

    def _claim_again(self, member: Member, partition: int) -> None:
        member.park(partition)
        self._forget(partition)
        self._unclaimed.add(partition)

    def _break_off(self, member: Member, partition: int) -> None:
        """Read no more of a partition; it is claimed again once what is in flight of it was applied."""
        member.park(partition)
        for slot, state in self._slots.owned.items():
            if slot.partition == partition:
                state.broken_off = True
                return
        self._claim_again(member, partition)

    def _prove(self, member: Member) -> None:
        """A commit that the group takes proves that a fenced slot is ours still: then it may be claimed again."""
        if not self._doubtful or time.monotonic() < self._next_probe:
            return
        self._next_probe = time.monotonic() + _PROBE_S
        for partition, offset in list(self._doubtful.items()):
            if member.prove(partition, offset) and partition in member.assigned():
                del self._doubtful[partition]
                self._unclaimed.add(partition)

    def _claim_new(self, member: Member) -> None:
        now = time.monotonic()
        for partition, broken in self._broken.items():
            if now >= broken.again_s:
                broken.again_s = math.inf  # until it fails again
                self._claim_again(member, partition)
        wanted = [number for number in self._unclaimed if now >= self._look_again.get(number, 0.0)]
        if not wanted or (uuid := self._present_uuid(member)) is None:
            return
        self._slots.release([slot for slot in self._slots.stopped if slot.uuid == uuid])
        for partition in sorted(member.assigned().intersection(wanted)):
            self._claim_one(member, LogSlot(self._topic, uuid, partition))
        self._faults.pop("redis", None)

    def _claim_one(self, member: Member, slot: LogSlot) -> None:
        claim = self._claim(slot)
        try:
            offset = start_offset(slot, claim.position, *member.bounds(slot.partition))
        except PositionOutsideLogError as error:
            self._slots.stop(slot, str(error))
            self._look_again[slot.partition] = time.monotonic() + _LOOK_AGAIN_S
            return
        if slot.partition in self._broken and self._broken[slot.partition].offset != offset:
            del self._broken[slot.partition]  # stepped over
        if member.seek(slot.partition, offset):
            self._slots.take(slot, claim, offset)
            self._unclaimed.discard(slot.partition)
            self._look_again.pop(slot.partition, None)

    def _present_uuid(self, member: Member) -> str | None:
        """The topic's uuid as the broker has it now; a topic that is gone is made again, and has one the next time."""
        uuid = member.present_uuid()
        if uuid is not None:
            self._faults.pop("log", None)
            return uuid
        self._faults["log"] = f"there is no topic {self._topic}"
        self._next_check = time.monotonic() + _LOOK_AGAIN_S
        if self._remake is not None:
            self._remake(self._topic)
        return None

    def _pause(self, member: Member) -> None:
        """Pause what is held, broken or not ours; before anything is resumed the broker is asked for the uuid."""
        running = {
            slot.partition
            for slot, state in self._slots.owned.items()
            if self._held is not None
            and slot not in self._held
            and self._broken.get(slot.partition, _READABLE).again_s == math.inf
            and not state.broken_off
        }
        paused = member.paused()
        if running & paused and not self._same_topic(member):
            return
        if (wanted := member.assigned() - running) != paused:
            member.pause(wanted)

    def _batches(self, member: Member, found: Mapping[int, list[Any]]) -> list[Batch]:
        """The records as batches, once the broker has said *after* they were fetched that the topic is still the same.

        The consumer's own metadata is no proof: it goes on reading a recreated topic at the old position for seconds.
        """
        if (found or time.monotonic() >= self._next_check) and not self._same_topic(member, found):
            return []
        slots = {slot.partition: slot for slot in self._slots.owned}
        batches: list[Batch] = []
        for partition, records in found.items():
            state = self._slots.get(slots[partition]) if partition in slots else None
            if state is None:
                continue
            if records[0].offset < state.read_offset:  # parked at 0 by the group while it was being resumed
                self._claim_again(member, partition)
                continue
            self._broken.pop(partition, None)
            next_offset = max(records[-1].offset + 1, member.position(partition))
            batches.append(self._slots.batch(slots[partition], tuple(map(record_of, records)), next_offset))
        return batches

    def _same_topic(self, member: Member, found: Collection[int] = ()) -> bool:
        """Whether the topic's uuid is still the one of our slots; if not, they are claimed anew, from the beginning."""
        self._next_check = time.monotonic() + _CHECK_S
        try:
            uuid = self._present_uuid(member)
            if not found:
                self._ends = member.ends([slot.partition for slot in self._slots.owned])
        except KafkaError:
            for slot, state in self._slots.owned.items():  # what was fetched cannot be trusted, so fetch it again
                if slot.partition in found:
                    member.seek(slot.partition, state.read_offset)
            raise
        if all(slot.uuid == uuid for slot in self._slots.owned):
            return True
        if uuid is not None:
            _log.warning("the topic was made anew, with another uuid: it is read from its beginning", topic=self._topic)
        for slot in self._slots.owned:
            self._claim_again(member, slot.partition)
        return False

    def _set_aside(self, member: Member, error: CorruptRecordError) -> None:
        """Leave the unreadable partition alone, so that the others go on; a poll would spin on it for ever."""
        member.revive()
        for partition in _partitions_in(error):
            member.discard(partition)
        for slot, state in self._slots.owned.items():
            if slot.partition in _partitions_in(error):
                why = f"a record of the log at or after offset {state.read_offset} is damaged: {error}"
                again_s = time.monotonic() + _BROKEN_S
                self._broken[slot.partition] = _Broken(offset=state.read_offset, again_s=again_s, why=why)

    def _uncommitted(self) -> dict[int, int]:
        applied = {slot.partition: state.applied_offset for slot, state in self._slots.owned.items()}
        return {number: offset for number, offset in applied.items() if self._committed.get(number) != offset}

    def _lag_of(self, member: Member, slot: LogSlot) -> Lag | None:
        """None while nobody has said where the partition ends."""
        state = self._slots.get(slot)
        known = [end for end in (member.end(slot.partition), self._ends.get(slot.partition)) if end is not None]
        if not known:
            return None
        end = max(known)  # a partition that is held is not fetched, and grows all the same
        if state is None or end <= state.applied_offset:
            self._behind_since.pop(slot, None)
            return Lag(records=0, oldest_unread_s=0.0)
        since = self._behind_since.setdefault(slot, time.monotonic())
        age_s = time.monotonic() - since
        if state.in_flight:
            age_s = max(0.0, wall_clock_s() - state.in_flight[0][1] / 1000)
        return Lag(records=end - state.applied_offset, oldest_unread_s=age_s)


def _said(error: Exception) -> str:
    """What went wrong, in one line."""
    return str(error) if isinstance(error, LogError | StoreError) else f"Kafka: {type(error).__name__}: {error}"


def _partitions_in(error: KafkaError) -> set[int]:
    """The partitions that an error of `poll` names; kafka-python puts them into its arguments or its text."""
    return {int(number) for number in re.findall(r"partition=(\d+)", str(error.args))}
