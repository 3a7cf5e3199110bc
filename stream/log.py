"""The log of escalations as the rest of the product sees it; memory, embedded and Kafka all satisfy it.

Positions are strings compared for equality, kept per (topic UUID, partition): the position is the offset to read next.
Offsets increase but need not be dense. The facts behind each rule stand in the contract suite (tests/contracts).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

from store.buffer.ledger import Claim, LogSlot

CommitOutcome = Literal["ok", "fenced", "moved"]
Headers = tuple[tuple[str, bytes], ...]
Dependency = Literal["redis", "log"]
Remake = Callable[[str], None]
"""Makes a topic of ours that has gone missing, with the settings' partitions; raises LogUnavailableError."""
Claimer = Callable[[LogSlot], Claim]
"""Takes a slot over for this process: raises its fence and returns the position to read from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record as it lies in the log."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int  # when the log took it, Unix milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Consecutive records of one slot; `start` is where the one before it ended."""

    slot: LogSlot
    fence: int
    start: str
    next: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a slot is behind."""

    records: int
    oldest_unread_s: float  # age of the oldest unread record, seconds; 0 when there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Why a reader gives less than it should; both are empty while all is well."""

    faults: Mapping[Dependency, str]  # what does not answer, and why: it is tried again, and goes on by itself
    stopped: Mapping[LogSlot, str]  # slots of ours that stand still until a person has decided, and why


class Source(Protocol):
    """One member of the group that reads a topic."""

    def poll(self, timeout_s: float, limit: int) -> list[Batch]:
        """At most `limit` records, as batches; claims new slots itself and drops lost ones.

        Returns [] within `timeout_s` while the log or the store is down. A slot whose stored position is below the
        log's beginning or above its end is never jumped: it stands still, the others go on, and it is looked at again
        until a person has moved its position.
        """

    def health(self) -> Health:
        """What was wrong when it was last looked; any thread may call it, and it asks nobody."""

    def done(self, batch: Batch, outcome: CommitOutcome) -> None:
        """Say what became of a batch: advance, drop the slot and probe, or claim again and seek back.

        Any thread may call it; it takes effect at the next poll.
        """

    def hold(self, slots: Collection[LogSlot] | None) -> None:
        """Back-pressure: exactly these slots are paused (None: all). Polling goes on and keeps the membership."""

    def lag(self) -> Mapping[LogSlot, Lag]:
        """The lag of each slot this member owns and reads; what is not known is left out.

        Raises:
            LogUnavailableError: the log does not answer, so nobody knows.
        """

    def close(self) -> None:
        """Leave the group."""


class Appender(Protocol):
    """Writes to the log."""

    def append(
        self, topic: str, *, key: bytes, value: bytes, headers: Headers = (), timestamp_ms: int | None = None
    ) -> Future[None]:
        """Send one record; the future resolves once the log has acknowledged it.

        The same key always lands in the same partition (murmur2, as Kafka's default partitioner has it).

        Raises (from the future):
            RecordTooLargeError: never retry it as it is.
            LogUnavailableError: no acknowledgement in time; the record may be in the log all the same.
        """

    def close(self) -> None:
        """Wait for what is in flight, within a bound, and stop."""


class History(Protocol):
    """Reads a topic from its beginning, outside any group: for `verify`, `dlq list` and the tests."""

    def slots(self, topic: str) -> list[LogSlot]:
        """The topic's partitions under its present UUID; [] when there is no such topic."""

    def bounds(self, slot: LogSlot) -> tuple[str, str]:
        """(beginning, end) positions of a slot."""

    def read(self, slot: LogSlot, start: str, end: str) -> Iterator[Record]:
        """The records in [start, end), in order."""

    def close(self) -> None:
        """Stop."""


class Topics(Protocol):
    """Makes topics."""

    def ensure(self, topic: str, partitions: int) -> None:
        """Create the topic unless it is there.

        Raises:
            LogUnavailableError: the log did not answer.
        """


def topic_of(use_case: str) -> str:
    """The topic that holds a use case's escalations."""
    return f"understudy.{use_case}"


def dead_topic_of(use_case: str) -> str:
    """The topic that holds a use case's dead letters."""
    return f"understudy.{use_case}.dead"
