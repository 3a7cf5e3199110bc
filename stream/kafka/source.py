"""One member of a Kafka consumer group. Kafka deals partitions out; the store's fences alone make that safe.

A partition that was just assigned is paused at offset 0 until the poll thread has claimed it, so not one record is
read before the claim. Kafka's own committed offsets serve restarts and lag displays only.
"""

import re
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, Final

import structlog
from kafka.errors import CorruptRecordError, KafkaError, LogTruncationError, OffsetOutOfRangeError

from store.buffer.ledger import Slot
from store.errors import StoreUnavailableError
from store.event import wall_clock_s
from stream.kafka.cluster import KafkaSettings, record_of
from stream.kafka.member import Connecting, Member
from stream.log import Batch, Claimer, Lag, Outcome
from stream.slots import Slots, start_offset

_SLICE_S: Final = 0.25
_COMMIT_S: Final = 0.5
_PROBE_S: Final = 0.5
_CHECK_S: Final = 5.0

_log = structlog.get_logger(__name__)


class KafkaSource:
    """One member. `done`, `hold` and `lag` may be called from any thread, the others from one."""

    def __init__(self, settings: KafkaSettings, topic: str, claim: Claimer) -> None:
        """Begin to connect; `poll` gives nothing until that is done."""
        self._topic = topic
        self._claim = claim
        self._connecting = Connecting(settings, topic)
        self._member: Member | None = None
        self._slots = Slots()
        self._unclaimed: set[int] = set()  # assigned to us, not yet claimed
        self._doubtful: dict[int, int] = {}  # partition -> offset: fenced, so a commit must prove the membership
        self._broken: set[int] = set()  # unreadable: paused until a person has looked
        self._held: frozenset[Slot] | None = frozenset()
        self._settled: deque[tuple[Batch, Outcome]] = deque()
        self._committed: dict[int, int] = {}
        self._next_commit = 0.0  # monotonic seconds
        self._next_probe = 0.0
        self._next_check = 0.0
        self._behind_since: dict[Slot, float] = {}
        self._complaint = ""

    def poll(self, timeout_s: float, limit: int) -> list[Batch]:
        """See `stream.log.Source`."""
        deadline = time.monotonic() + timeout_s
        while True:
            slice_s = min(_SLICE_S, max(0.0, deadline - time.monotonic()))
            if self._member is None:
                self._member = self._connecting.wait(slice_s)
            elif batches := self._poll_once(self._member, slice_s, limit):
                return batches
            if time.monotonic() >= deadline:
                return []

    def done(self, batch: Batch, outcome: Outcome) -> None:
        """See `stream.log.Source`."""
        self._settled.append((batch, outcome))

    def hold(self, slots: Collection[Slot] | None) -> None:
        """See `stream.log.Source`."""
        self._held = None if slots is None else frozenset(slots)

    def lag(self) -> Mapping[Slot, Lag]:
        """See `stream.log.Source`. The age is that of the oldest record in hand, else the time since we fell behind."""
        member = self._member
        return {} if member is None else {slot: self._lag_of(member, slot) for slot in self._slots.owned}

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
                self._claim_again(member, partition)  # its check of the bounds says what is lost
            return []
        except CorruptRecordError as error:
            self._set_aside(member, error)
            return []
        except (KafkaError, StoreUnavailableError) as error:
            self._complain(error)
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
        if time.monotonic() >= self._next_commit:
            self._next_commit = time.monotonic() + _COMMIT_S
            if (offsets := self._uncommitted()) and member.commit_later(offsets):
                self._committed |= offsets

    def _follow(self, member: Member) -> None:
        """Take note of what the group assigned and took away."""
        for sign, partition in member.changes():
            self._forget(partition)
            if sign == "+":
                self._unclaimed.add(partition)

    def _forget(self, partition: int) -> None:
        for slot in self._slots.owned:
            if slot.partition == partition:
                self._slots.drop(slot)
        self._unclaimed.discard(partition)
        self._broken.discard(partition)
        self._doubtful.pop(partition, None)
        self._committed.pop(partition, None)

    def _claim_again(self, member: Member, partition: int) -> None:
        member.park(partition)
        self._forget(partition)
        self._unclaimed.add(partition)

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
        if not self._unclaimed:
            return
        uuid = member.present_uuid()
        if uuid is None:
            return
        for partition in sorted(self._unclaimed & member.assigned()):
            slot = Slot(self._topic, uuid, partition)
            claim = self._claim(slot)
            offset = start_offset(slot, claim.position, *member.bounds(partition))
            if member.seek(partition, offset):
                self._slots.take(slot, claim, offset)
                self._unclaimed.discard(partition)

    def _pause(self, member: Member) -> None:
        """Pause what is held, broken or not ours; before anything is resumed the broker is asked for the uuid."""
        running = {
            slot.partition
            for slot in self._slots.owned
            if self._held is not None and slot not in self._held and slot.partition not in self._broken
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
            next_offset = max(records[-1].offset + 1, member.position(partition))
            batches.append(self._slots.batch(slots[partition], tuple(map(record_of, records)), next_offset))
        return batches

    def _same_topic(self, member: Member, found: Collection[int] = ()) -> bool:
        """Whether the topic's uuid is still the one of our slots; if not, they are claimed anew, from the beginning."""
        self._next_check = time.monotonic() + _CHECK_S
        try:
            uuid = member.present_uuid()
        except KafkaError:
            for slot, state in self._slots.owned.items():  # what was fetched cannot be trusted, so fetch it again
                if slot.partition in found:
                    member.seek(slot.partition, state.read_offset)
            raise
        if all(slot.uuid == uuid for slot in self._slots.owned):
            return True
        _log.warning("the topic has another uuid: it was made anew and is read from its beginning", topic=self._topic)
        for slot in self._slots.owned:
            self._claim_again(member, slot.partition)
        return False

    def _set_aside(self, member: Member, error: CorruptRecordError) -> None:
        """Leave the unreadable partition alone, so that the others go on; a poll would spin on it for ever."""
        member.revive()
        self._broken |= _partitions_in(error)
        _log.error("a record of the log is damaged: its partition stands still until it is repaired", error=str(error))

    def _complain(self, error: Exception) -> None:
        if self._complaint != repr(error):
            self._complaint = repr(error)
            _log.warning("the log or the store is not reachable", error=self._complaint)

    def _uncommitted(self) -> dict[int, int]:
        applied = {slot.partition: state.applied_offset for slot, state in self._slots.owned.items()}
        return {number: offset for number, offset in applied.items() if self._committed.get(number) != offset}

    def _lag_of(self, member: Member, slot: Slot) -> Lag:
        state = self._slots.get(slot)
        end = member.end(slot.partition)
        if state is None or end is None or end <= state.applied_offset:
            self._behind_since.pop(slot, None)
            return Lag(records=0, oldest_unread_s=0.0)
        since = self._behind_since.setdefault(slot, time.monotonic())
        age_s = time.monotonic() - since
        if state.in_flight:
            age_s = max(0.0, wall_clock_s() - state.in_flight[0][1] / 1000)
        return Lag(records=end - state.applied_offset, oldest_unread_s=age_s)


def _partitions_in(error: KafkaError) -> set[int]:
    """The partitions that an error of `poll` names; kafka-python puts them into its arguments or its text."""
    return {int(number) for number in re.findall(r"partition=(\d+)", str(error.args))}
