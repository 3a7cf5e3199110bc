"""Publishes escalations so that an accepted one is never lost: acknowledged by the log, or fsynced to the spool.

While the log is well, events go straight to it. Once one was not acknowledged in time, all go to the spool, which is
sent in order when the log is back; when it is empty, events go straight again. An event may arrive twice (a time-out
does not mean that it was not written): its id makes that harmless.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from store.errors import LogUnavailableError, RecordTooLargeError, SpoolFullError
from store.event import MAX_EVENT_BYTES, Escalation, encode
from store.faults.points import reach
from store.log.lazy import logger
from store.retry.backoff import Backoff
from stream.log import Appender, Headers, topic_of
from stream.spool import Spool

_DRAIN_BATCH: Final = 100
_BACKOFF: Final = Backoff(first_s=0.1, most_s=5.0)
_LOOK_AGAIN_S: Final = 5.0  # at a spool that seems empty

_log = logger(__name__)


class _Spooled(msgspec.Struct, frozen=True, array_like=True):
    """One record as it lies in the spool."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


_decoder: Final = msgspec.msgpack.Decoder(_Spooled)


@dataclass(slots=True, kw_only=True)
class PublisherCounts:
    """Events since the start. accepted = acknowledged + spooled."""

    acknowledged: int = 0  # by the log, before publish() returned
    spooled: int = 0  # fsynced to the spool instead
    resent: int = 0  # from the spool, acknowledged by the log
    dropped: int = 0  # the spool was full: alert
    too_large: int = 0


class Publisher:
    """Publishes from one event loop; it owns the appender and the spool, and closes them."""

    def __init__(
        self,
        appender: Appender,
        spool: Spool,
        *,
        topic_of: Callable[[str], str] = topic_of,
        ack_timeout_s: float = 2.0,
        max_in_flight: int = 1000,
    ) -> None:
        """A response waits `ack_timeout_s` for the log at most; past `max_in_flight` events, to the spool."""
        self._appender = appender
        self._spool = spool
        self._topic_of = topic_of
        self._ack_timeout_s = ack_timeout_s
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._direct = spool.empty
        self._spooled = asyncio.Event()
        self._refused = False  # the spool took nothing of late: the log is all there is, well or not
        self._drainer: asyncio.Task[None] | None = None
        self.counts = PublisherCounts()

    @property
    def spool_bytes(self) -> int:
        """What the spool holds, bytes."""
        return self._spool.bytes_kept

    @property
    def healthy(self) -> bool:
        """Whether events go straight to the log."""
        return self._direct

    async def start(self) -> None:
        """Begin to send what an earlier process left in the spool."""
        self._drainer = asyncio.create_task(self._drain())

    async def publish(self, event: Escalation, item_id: str, *, traceparent: str | None = None) -> None:
        """Return once the event survives this process: the log acknowledged it, or the spool fsynced it.

        Raises:
            RecordTooLargeError: the event is over `store.event.MAX_EVENT_BYTES`, or the log's own limit.
            SpoolFullError: the log does not answer and the spool is full: the event is dropped and counted.
        """
        headers: Headers = () if traceparent is None else (("traceparent", traceparent.encode()),)
        record = _Spooled(self._topic_of(event.use_case), item_id.encode(), encode(event), headers)
        if len(record.value) > MAX_EVENT_BYTES:
            self.counts.too_large += 1
            message = f"event {event.id}: {len(record.value)} bytes, {MAX_EVENT_BYTES} allowed"
            raise RecordTooLargeError(message)
        if self._direct and self._in_flight < self._max_in_flight:
            if await self._send(record):
                self.counts.acknowledged += 1
                return
            if self._direct:
                _log.warning("the log does not acknowledge: events go to the spool until it does")
                self._direct = False
        await self._keep(record)

    async def close(self) -> None:
        """Stop within a bound; what the spool holds is sent by the next process."""
        if self._drainer is not None:
            self._drainer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._drainer
        await asyncio.to_thread(self._spool.close)
        await asyncio.to_thread(self._appender.close)

    async def _send(self, record: _Spooled) -> bool:
        """Whether the log acknowledged the record in time."""
        self._in_flight += 1
        try:
            future = self._appender.append(record.topic, key=record.key, value=record.value, headers=record.headers)
            async with asyncio.timeout(self._ack_timeout_s):
                await asyncio.wrap_future(future)
        except RecordTooLargeError:
            self.counts.too_large += 1
            raise
        except (LogUnavailableError, TimeoutError):
            return False
        finally:
            self._in_flight -= 1
        return True

    async def _keep(self, record: _Spooled) -> None:
        try:
            await asyncio.wrap_future(self._spool.append(msgspec.msgpack.encode(record)))
        except SpoolFullError:
            self.counts.dropped += 1
            self._refused = True
            self._spooled.set()
            raise
        self.counts.spooled += 1
        self._spooled.set()

    async def _drain(self) -> None:
        """Send what the spool holds, oldest first; while the log is down, try one record now and then."""
        failures, limit = 0, _DRAIN_BATCH if self._direct else 1
        while True:
            self._spooled.clear()
            try:
                room = max(1, self._max_in_flight - self._in_flight)
                payloads = await asyncio.to_thread(self._spool.head, min(limit, room))
                sent = await self._send_in_order(payloads)
                if sent:
                    reach("spool.resent")
                await asyncio.to_thread(self._spool.advance, sent)
            except OSError as error:
                _log.error("the spool cannot be read: its events wait", reason=str(error))
                payloads, sent = [b""], 0
            if not payloads:
                if self._direct:
                    failures = 0
                elif self._refused:  # nothing lies in the spool to find out with: an event must
                    self._refused = False
                    failures += 1
                    await asyncio.sleep(_BACKOFF.longest_s(failures))
                self._direct = True
                with contextlib.suppress(TimeoutError):  # what an earlier process left may come to light later
                    async with asyncio.timeout(_LOOK_AGAIN_S):  # `wait_for` may swallow a cancellation
                        await self._spooled.wait()
            elif sent == len(payloads):
                failures, limit = 0, _DRAIN_BATCH
            else:
                failures, limit = failures + 1, 1
                await asyncio.sleep(_BACKOFF.longest_s(failures))

    async def _send_in_order(self, payloads: Sequence[bytes]) -> int:
        """How many of the first payloads need not be sent again."""
        answers = await asyncio.gather(*map(self._resend, payloads))
        return answers.index(False) if False in answers else len(answers)

    async def _resend(self, payload: bytes) -> bool:
        record = _decoder.decode(payload)
        try:
            sent = await self._send(record)
        except RecordTooLargeError as error:
            _log.error("a spooled event is too large for the log and is dropped", topic=record.topic, reason=str(error))
            return True
        self.counts.resent += sent
        return sent
