"""A member's connections to Kafka: the consumer, and the admin client that knows a topic's present uuid.

Connecting goes on in a thread of its own, because kafka-python's constructors block while no broker answers.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from store.errors import LogUnavailableError
from store.log.lazy import logger
from stream.kafka.cluster import KafkaSettings, admin, connected, topic_partitions

_HEARTBEAT_MS: Final = 500  # retained partitions stand still for a heartbeat in every rebalance
_MAX_POLL_MS: Final = 60_000  # how long the group waits in a rebalance for a member that does not come
_PROBE_MS: Final = 1000
_CLOSE_MS: Final = 1000
_RETRY_S: Final = 0.5

Change = tuple[Literal["+", "-"], int]

_log = logger(__name__)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # the library has no types
    """Runs on the consumer's IO thread: parks what comes, and tells the poll thread by flags alone."""

    def __init__(self, consumer: Any, changes: deque[Change]) -> None:
        self._consumer = consumer
        self._changes = changes

    def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        for partition in assigned:
            self._consumer.seek(partition, 0)  # a position of its own, or 'none' raises NoOffsetForPartitionError
            self._consumer.pause(partition)
            self._changes.append(("+", partition.partition))

    def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        self._changes.extend(("-", partition.partition) for partition in revoked)

    def on_partitions_lost(self, lost: list[TopicPartition]) -> None:
        self.on_partitions_revoked(lost)


class Member:
    """A consumer in the group. Methods raise KafkaError unless they say otherwise."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        """Connect and join.

        Raises:
            LogUnavailableError: no broker answers, or it refuses us.
        """
        self._topic = topic
        self._admin = admin(settings)
        try:
            self._consumer = connected(
                KafkaConsumer,
                settings,
                group_id=settings.group,
                enable_auto_commit=False,
                auto_offset_reset="none",  # 'earliest' would hide a retention gap
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                session_timeout_ms=settings.session_timeout_ms,
                heartbeat_interval_ms=_HEARTBEAT_MS,
                max_poll_interval_ms=_MAX_POLL_MS,
                max_partition_fetch_bytes=4 << 20,
            )
        except LogUnavailableError:
            self._admin.close()
            raise
        self._changes: deque[Change] = deque()
        self._committing: Any = None
        self._joining: Any = None
        self._join_ended = threading.Event()
        self._consumer.subscribe([topic], listener=_Listener(self._consumer, self._changes))

    def changes(self) -> list[Change]:
        """What was assigned and taken away since the last call, in order; never raises."""
        return [self._changes.popleft() for _ in range(len(self._changes))]

    def assigned(self) -> set[int]:
        """The partitions that are ours as far as we know; never raises."""
        return {partition.partition for partition in self._consumer.assignment()}

    def fetch(self, timeout_s: float, limit: int) -> dict[int, list[Any]]:
        """Records by partition; none while the group is being joined."""
        if not self._joined(timeout_s):
            return {}
        found = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=limit)
        return {partition.partition: records for partition, records in found.items()}

    def _joined(self, timeout_s: float) -> bool:
        """Whether we are in the group; if not, join it on the IO thread, however long that takes.

        To leave it to `poll` is not enough: kafka-python 3.0.12 throws the assignment away when a poll times out while
        a join is under way that new metadata asked for. It then believes to be a member, without partitions and
        without heartbeats, for ever.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - see above
        if self._joining is None:
            if coordinator.rejoining:  # a poll started to join and gave up waiting
                coordinator.request_rejoin()
            if coordinator.need_rejoin():
                self._join_ended.clear()
                self._joining = self._consumer._manager.call_soon(coordinator.ensure_active_group_async)  # noqa: SLF001
                self._joining.add_both(lambda _: self._join_ended.set())
        if self._joining is not None:
            if not self._join_ended.wait(timeout_s):
                return False
            joining, self._joining = self._joining, None
            if joining.failed():
                raise joining.exception
        return True

    def present_uuid(self) -> str | None:
        """The topic's uuid as the broker has it now; None: there is no such topic."""
        found = topic_partitions(self._admin, self._topic)
        return None if found is None else found[0]

    def bounds(self, partition: int) -> tuple[int, int]:
        """(beginning, end) of a partition."""
        which = self._which(partition)
        begin = self._consumer.beginning_offsets([which])[which]
        return begin, self._consumer.end_offsets([which])[which]

    def ends(self, partitions: Collection[int]) -> dict[int, int]:
        """The end of each partition, as the broker has it now."""
        found = self._consumer.end_offsets([self._which(partition) for partition in partitions])
        return {which.partition: int(end) for which, end in found.items()}

    def end(self, partition: int) -> int | None:
        """The end as the last fetch saw it; never raises."""
        try:
            seen = self._consumer.highwater(self._which(partition))
        except (KafkaError, KeyError):
            return None
        return None if seen is None else int(seen)

    def position(self, partition: int) -> int:
        """Where the consumer stands, over markers of transactions, too; 0 when it was taken away meanwhile."""
        with contextlib.suppress(KafkaError, KeyError):
            return int(self._consumer.position(self._which(partition), timeout_ms=0) or 0)
        return 0

    def seek(self, partition: int, offset: int) -> bool:
        """Read on from an offset; False when the partition was taken away meanwhile. Never raises."""
        try:
            self._consumer.seek(self._which(partition), offset)
        except (ValueError, KeyError):
            return False
        return True

    def park(self, partition: int) -> None:
        """Stop fetching a partition until it is claimed; never raises."""
        with contextlib.suppress(KeyError):  # taken away meanwhile
            self._consumer.pause(self._which(partition))
        self.seek(partition, 0)

    def pause(self, partitions: set[int]) -> None:
        """Exactly these partitions are paused from here on; never raises."""
        for which in self._consumer.assignment():
            with contextlib.suppress(KeyError):  # taken away meanwhile
                if which.partition in partitions:
                    self._consumer.pause(which)
                else:
                    self._consumer.resume(which)

    def paused(self) -> set[int]:
        """The partitions that are paused; never raises."""
        return {which.partition for which in self._consumer.paused()}

    def revive(self) -> None:
        """Seek every partition to where it stands: a fetch that raised once would spin for ever; never raises."""
        for which in self._consumer.assignment():
            self.seek(which.partition, self.position(which.partition))

    def discard(self, partition: int) -> None:
        """Throw away what was fetched of a partition; never raises.

        kafka-python 3.0.12 keeps the generator that raised while the partition is paused. Resumed at the same offset,
        it gives nothing, raises nothing and is never replaced.
        """
        fetcher, which = self._consumer._fetcher, self._which(partition)  # noqa: SLF001 - see above
        fetcher._paused_completed_fetches.pop(which, None)  # noqa: SLF001
        fetcher._paused_partition_records.pop(which, None)  # noqa: SLF001
        parsed = fetcher._next_partition_records  # noqa: SLF001
        if parsed is not None and parsed.topic_partition == which:
            fetcher._next_partition_records = None  # noqa: SLF001

    def prove(self, partition: int, offset: int) -> bool:
        """Whether the group still takes our commits; nothing else tells a zombie in time. Never raises."""
        try:
            self._consumer.commit({self._which(partition): OffsetAndMetadata(offset, "", -1)}, timeout_ms=_PROBE_MS)
        except KafkaError:
            return False
        return True

    def commit_later(self, offsets: Mapping[int, int]) -> bool:
        """Commit without waiting, unless the last one is still under way; never raises."""
        if self._committing is not None and not self._committing.is_done:
            return False
        with contextlib.suppress(KafkaError):  # the next one says the same and more
            self._committing = self._consumer.commit_async(self._offsets(offsets))
        return True

    def leave(self, offsets: Mapping[int, int]) -> None:
        """Commit, leave the group and disconnect, within seconds; never raises."""
        with contextlib.suppress(KafkaError):
            if offsets:
                self._consumer.commit(self._offsets(offsets), timeout_ms=_CLOSE_MS)
        with contextlib.suppress(KafkaError):
            self._consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)
        self._admin.close()

    def _which(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)

    def _offsets(self, offsets: Mapping[int, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {self._which(partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}


class Connecting:
    """A member that is on its way; it tries until it is there."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._changed = threading.Condition()
        self._member: Member | None = None
        self._cancelled = threading.Event()
        self.trouble = "not connected to Kafka yet"  # why there is no member
        threading.Thread(target=self._run, name="kafka-connect", daemon=True).start()

    def wait(self, timeout_s: float) -> Member | None:
        """The member, if it is there in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._member is not None, timeout_s)
            return self._member

    def cancel(self) -> None:
        """Give up; a member that comes all the same leaves at once."""
        with self._changed:
            self._cancelled.set()
            member, self._member = self._member, None
        if member is not None:
            member.leave({})

    def _run(self) -> None:
        while not self._cancelled.is_set():
            began = time.monotonic()
            try:
                member = Member(self._settings, self._topic)
            except LogUnavailableError as error:
                if self.trouble != str(error):  # once, not twice a second
                    _log.warning("cannot reach Kafka; the log of kafka.net has the reason", error=str(error))
                self.trouble = str(error)
                self._cancelled.wait(max(_RETRY_S, began + _RETRY_S - time.monotonic()))
                continue
            with self._changed:
                if not self._cancelled.is_set():
                    self._member = member
                    self._changed.notify_all()
                    return
            member.leave({})
