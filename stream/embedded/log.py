"""The log of a machine without Kafka: Redis streams in the private Redis.

One stream per partition, ids as offsets, our own position and fence; no Redis consumer groups, which interleave a
partition and take a zombie's late acknowledgement.
"""

import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Final

import redis

from store.buffer.ledger import LogSlot
from store.errors import LogUnavailableError
from store.event import wall_clock_s
from stream.embedded.source import EmbeddedSource
from stream.embedded.streams import Streams, TopicInfo
from stream.log import Claimer, Headers, Record, Remake
from stream.outbox import MAX_RECORD_BYTES, Outbox, Outgoing, too_large
from stream.slots import start_offset

_CAPACITY_BYTES: Final = 256 << 20
_MAX_WAITING: Final = 10_000
_MAX_BATCH: Final = 500
_READ_COUNT: Final = 1000
_CLOSE_S: Final = 5.0
_WRITE_TIMEOUT_S: Final = 5.0  # an fsync may take long, and giving up on a write means to write it again
_READ_TIMEOUT_S: Final = 1.5  # reading again is harmless, and poll() promised to return


class EmbeddedLog:
    """Appender, History and Topics over Redis; `source` reads.

    A partition keeps `capacity_bytes`. At the limit, records that were read make room; unread ones never do, and the
    log refuses new records instead (LogUnavailableError: the publisher spools). Dead letters give way oldest first.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        capacity_bytes: int = _CAPACITY_BYTES,
        max_record_bytes: int = MAX_RECORD_BYTES,
        remake: Remake | None = None,
    ) -> None:
        """Use the address of `client`; the log opens its own connections. `remake` is asked for a missing topic."""
        self._remake = remake
        self._client = client
        self._streams = Streams(client, _WRITE_TIMEOUT_S)
        self._capacity_bytes = capacity_bytes
        self._max_record_bytes = max_record_bytes
        self._known: dict[str, TopicInfo] = {}
        self._outbox = Outbox(self._send, max_waiting=_MAX_WAITING, max_batch=_MAX_BATCH, tick_s=60.0)

    def ensure(self, topic: str, partitions: int) -> None:
        """See `stream.log.Topics`."""
        try:
            self._streams.ensure(topic, str(uuid.uuid4()), partitions)
        except redis.RedisError as error:
            raise _unavailable(error) from error

    def append(
        self, topic: str, *, key: bytes, value: bytes, headers: Headers = (), timestamp_ms: int | None = None
    ) -> Future[None]:
        """See `stream.log.Appender`; records that wait together are appended together."""
        stamp_ms = int(wall_clock_s() * 1000) if timestamp_ms is None else timestamp_ms
        outgoing = Outgoing(topic=topic, key=key, value=value, headers=headers, timestamp_ms=stamp_ms)
        if (error := too_large(outgoing, self._max_record_bytes)) is not None:
            return outgoing.refuse(error)
        return self._outbox.put(outgoing)

    def slots(self, topic: str) -> list[LogSlot]:
        """See `stream.log.History`.

        Raises:
            LogUnavailableError: Redis did not answer.
        """
        try:
            info = self._streams.info(topic)
        except redis.RedisError as error:
            raise _unavailable(error) from error
        return [] if info is None else [LogSlot(topic, info.uuid, number) for number in range(info.partitions)]

    def bounds(self, slot: LogSlot) -> tuple[str, str]:
        """See `stream.log.History`.

        Raises:
            LogUnavailableError: Redis did not answer.
        """
        try:
            begin, end = self._streams.bounds(slot)
        except redis.RedisError as error:
            raise _unavailable(error) from error
        return str(begin), str(end)

    def read(self, slot: LogSlot, start: str, end: str) -> Iterator[Record]:
        """See `stream.log.History`.

        Raises:
            LogUnavailableError: Redis did not answer.
            PositionOutsideLogError: records from `start` on are no longer kept.
        """
        begin, last = self.bounds(slot)
        offset = start_offset(slot, start, int(begin), int(last))
        try:
            while offset < int(end):
                records = self._streams.range(slot, offset, min(_READ_COUNT, int(end) - offset))
                if not records:
                    return
                start_offset(slot, str(offset), records[0].offset, records[-1].offset)  # trimmed under our hands?
                yield from records
                offset = records[-1].offset + 1
        except redis.RedisError as error:
            raise _unavailable(error) from error

    def source(
        self, topic: str, *, owner: str, claim: Claimer, lease_s: float = 3.0, remake: Remake | None = None
    ) -> EmbeddedSource:
        """A reader of the topic; `owner` is unique to it. A dead reader's slots are free after `lease_s`."""
        streams = Streams(self._client, _READ_TIMEOUT_S)
        return EmbeddedSource(streams, topic, owner=owner, claim=claim, lease_s=lease_s, remake=remake)

    def close(self) -> None:
        """See `stream.log.Appender`."""
        self._outbox.close(_CLOSE_S)
        self._streams.close()

    def _send(self, taken: list[Outgoing]) -> None:
        for topic, records in groupby(sorted(taken, key=lambda outgoing: outgoing.topic), lambda found: found.topic):
            self._send_topic(topic, list(records))

    def _send_topic(self, topic: str, records: Sequence[Outgoing]) -> None:
        try:
            kept = self._append(topic, records)
        except (redis.RedisError, LogUnavailableError) as error:
            for outgoing in records:
                outgoing.done.set_exception(_unavailable(error))
            return
        full = f"{topic}: {self._capacity_bytes} bytes of unread records: is ingest running? Spool the event"
        for outgoing, one in zip(records, kept, strict=True):
            if one:
                outgoing.done.set_result(None)
            else:
                outgoing.done.set_exception(LogUnavailableError(full))

    def _append(self, topic: str, records: Sequence[Outgoing]) -> list[bool]:
        if (info := self._known.get(topic)) is not None and (
            kept := self._streams.append(info, records, self._capacity_bytes)
        ):
            return kept
        if (info := self._streams.info(topic)) is None and self._remake is not None:
            self._remake(topic)  # Redis was emptied
            info = self._streams.info(topic)
        if info is None:
            message = f"no topic {topic}: make it with Topics.ensure"
            raise LogUnavailableError(message)
        self._known[topic] = info
        if kept := self._streams.append(info, records, self._capacity_bytes):
            return kept
        message = f"topic {topic} was made anew meanwhile: try again"
        raise LogUnavailableError(message)


def _unavailable(error: Exception) -> LogUnavailableError:
    return error if isinstance(error, LogUnavailableError) else LogUnavailableError(f"Redis: {error}")
