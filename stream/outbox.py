"""A bounded queue in front of a log, emptied by one thread: appending never blocks its caller."""

import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from store.errors import LogUnavailableError, RecordTooLargeError
from stream.log import Headers

MAX_RECORD_BYTES: Final = 4 << 20
"""A dead letter may hold an oversized event whole; an event itself is bounded by `store.event.MAX_EVENT_BYTES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One record on its way to the log."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    timestamp_ms: int
    done: Future[None] = field(default_factory=Future)

    @property
    def size_bytes(self) -> int:
        """Key, value and headers."""
        return len(self.key) + len(self.value) + sum(len(name) + len(value) for name, value in self.headers)

    def refuse(self, error: Exception) -> Future[None]:
        """Fail the record before it was ever sent."""
        self.done.set_exception(error)
        return self.done


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, as Kafka's default partitioner has it (murmur2 of Java's client, without its sign)."""
    multiplier, mask = 0x5BD1E995, 0xFFFFFFFF
    state = 0x9747B28C ^ len(key)
    whole = len(key) & ~3
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        mixed = word * multiplier & mask
        mixed = (mixed ^ mixed >> 24) * multiplier & mask
        state = (state * multiplier & mask) ^ mixed
    if rest := key[whole:]:
        state = (state ^ int.from_bytes(rest, "little")) * multiplier & mask
    state = (state ^ state >> 13) * multiplier & mask
    return ((state ^ state >> 15) & 0x7FFFFFFF) % partitions


def too_large(outgoing: Outgoing, max_bytes: int) -> RecordTooLargeError | None:
    """The error for a record over the limit."""
    if outgoing.size_bytes <= max_bytes:
        return None
    return RecordTooLargeError(f"{outgoing.topic}: a record of {outgoing.size_bytes} bytes, {max_bytes} allowed")


class Outbox:
    """Hands waiting records to `send`, many at a time, from one thread of its own."""

    def __init__(
        self, send: Callable[[list[Outgoing]], None], *, max_waiting: int, max_batch: int, tick_s: float
    ) -> None:
        """`send` resolves each record's future, now or later; after the first it is called every `tick_s` at least."""
        self._send = send
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._tick_s = tick_s
        self._waiting: deque[Outgoing] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None  # started by the first record: a reader's log needs none

    def put(self, outgoing: Outgoing) -> Future[None]:
        """Queue one record; a full queue fails it at once."""
        with self._wake:
            if self._closed:
                return outgoing.refuse(LogUnavailableError("the log's writer is closed: spool the event"))
            if len(self._waiting) >= self._max_waiting:
                waiting = f"{self._max_waiting} records wait for the log already: spool the event"
                return outgoing.refuse(LogUnavailableError(waiting))
            self._waiting.append(outgoing)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
                self._thread.start()
            self._wake.notify()
        return outgoing.done

    def close(self, timeout_s: float) -> None:
        """Send what waits, within a bound; what is left fails."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
        with self._wake:
            left = list(self._waiting)
            self._waiting.clear()
        for outgoing in left:
            if outgoing.done.set_running_or_notify_cancel():
                outgoing.refuse(LogUnavailableError("the log's writer was closed before the record was sent"))

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._waiting and not self._closed:
                    self._wake.wait(self._tick_s)
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]
                finished = self._closed and not self._waiting
            self._send([outgoing for outgoing in taken if outgoing.done.set_running_or_notify_cancel()])
            if finished:
                return
