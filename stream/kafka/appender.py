"""Writes to Kafka. The idempotent producer is off: it wedged for ever after one refusal, and our ids do its work."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from store.errors import LogUnavailableError, RecordTooLargeError
from store.event import wall_clock_s
from store.log.lazy import logger
from stream.kafka.cluster import KafkaSettings, connected, unavailable
from stream.log import Headers, Remake
from stream.outbox import Outbox, Outgoing, too_large

_MAX_WAITING: Final = 10_000
_MAX_IN_FLIGHT: Final = 5000
_MAX_BATCH: Final = 500
_DELIVERY_S: Final = 10.0
_WEDGED_S: Final = 5.0
_TICK_S: Final = 0.5
_CLOSE_S: Final = 5.0
_REMAKE_S: Final = 10.0

_log = logger(__name__)


class KafkaAppender:
    """Appends records; connects when the first one comes, and again whenever the producer is wedged."""

    def __init__(
        self, settings: KafkaSettings, *, delivery_s: float = _DELIVERY_S, remake: Remake | None = None
    ) -> None:
        """`delivery_s` is how long a record is tried for before it fails with LogUnavailableError.

        `remake` is asked, now and then, for a topic that nothing could be sent to.
        """
        self._remake = remake
        self._remake_at: dict[str, float] = {}  # topic -> monotonic s before which it is not asked for again
        self._settings = settings
        self._delivery_s = delivery_s
        self._producer: Any = None
        self._in_flight: dict[int, tuple[float, Outgoing]] = {}  # id of the record -> (sent at, monotonic s)
        self._guard = Lock()
        self._outbox = Outbox(self._send, max_waiting=_MAX_WAITING, max_batch=_MAX_BATCH, tick_s=_TICK_S)

    def append(
        self, topic: str, *, key: bytes, value: bytes, headers: Headers = (), timestamp_ms: int | None = None
    ) -> Future[None]:
        """See `stream.log.Appender`."""
        stamp_ms = int(wall_clock_s() * 1000) if timestamp_ms is None else timestamp_ms
        outgoing = Outgoing(topic=topic, key=key, value=value, headers=headers, timestamp_ms=stamp_ms)
        if (error := too_large(outgoing, self._settings.max_record_bytes)) is not None:
            return outgoing.refuse(error)
        return self._outbox.put(outgoing)

    def close(self) -> None:
        """See `stream.log.Appender`."""
        self._outbox.close(_CLOSE_S)
        if self._producer is not None:
            self._producer.close(timeout=_CLOSE_S if self._in_flight else 1.0)
        self._fail_older_than(0.0, "the log's writer was closed before the record was acknowledged")

    def _send(self, taken: list[Outgoing]) -> None:
        """The outbox's thread alone comes here, so that a producer that blocks blocks nobody else."""
        self._replace_wedged_producer()
        blocked: dict[str, LogUnavailableError] = {}  # each try may block for seconds: one for each topic is enough
        for outgoing in taken:
            if (error := blocked.get(outgoing.topic)) is not None:
                outgoing.refuse(error)
            elif (refusal := self._send_one(outgoing)) is not None:
                outgoing.refuse(refusal)
                if isinstance(refusal, LogUnavailableError):
                    blocked[outgoing.topic] = refusal
        for topic in blocked:
            self._ask_for(topic)

    def _ask_for(self, topic: str) -> None:
        """A topic that was deleted is made again; one that is there stays as it is."""
        if self._remake is None or self._producer is None or time.monotonic() < self._remake_at.get(topic, 0.0):
            return
        self._remake_at[topic] = time.monotonic() + _REMAKE_S
        try:
            self._remake(topic)
        except LogUnavailableError as error:
            _log.warning("a topic that takes no record could not be made", topic=topic, why=str(error))

    def _send_one(self, outgoing: Outgoing) -> LogUnavailableError | RecordTooLargeError | None:
        if len(self._in_flight) >= _MAX_IN_FLIGHT:  # the producer's own memory has no bound
            return LogUnavailableError(f"{_MAX_IN_FLIGHT} records wait for Kafka's acknowledgement")
        with self._guard:
            self._in_flight[id(outgoing)] = (time.monotonic(), outgoing)
        try:
            if self._producer is None:
                self._producer = self._connect()
            sent = self._producer.send(
                outgoing.topic,
                key=outgoing.key,
                value=outgoing.value,
                headers=list(outgoing.headers),
                timestamp_ms=outgoing.timestamp_ms,
            )
        except LogUnavailableError as error:
            self._taken_off(outgoing)
            return error
        except (KafkaError, ValueError) as error:  # ValueError: no such topic in the metadata
            self._taken_off(outgoing)
            return _refusal(outgoing, error)
        sent.add_callback(self._acknowledged(outgoing))
        sent.add_errback(self._failed(outgoing))
        return None

    def _connect(self) -> Any:
        return connected(
            KafkaProducer,
            self._settings,
            enable_idempotence=False,
            max_in_flight_requests_per_connection=1,  # keeps the order, and batches what waits meanwhile
            acks="all",
            compression_type="zstd",
            linger_ms=0,
            batch_size=65536,
            max_request_size=self._settings.max_record_bytes + (1 << 20),
            max_block_ms=2000,
            delivery_timeout_ms=int(self._delivery_s * 1000),
            allow_auto_create_topics=False,
        )

    def _acknowledged(self, outgoing: Outgoing) -> Callable[[object], None]:
        def succeed(_: object) -> None:
            if self._taken_off(outgoing):
                outgoing.done.set_result(None)

        return succeed

    def _failed(self, outgoing: Outgoing) -> Callable[[Exception], None]:
        def fail(error: Exception) -> None:
            if self._taken_off(outgoing):
                outgoing.refuse(_refusal(outgoing, error))

        return fail

    def _taken_off(self, outgoing: Outgoing) -> bool:
        """Whether the record was still in flight: acknowledgement and time-out race for it, one of them wins."""
        with self._guard:
            return self._in_flight.pop(id(outgoing), None) is not None

    def _replace_wedged_producer(self) -> None:
        """A producer whose records are neither done nor failed long after their time never recovers."""
        if not self._fail_older_than(self._delivery_s + _WEDGED_S, "Kafka neither took nor refused the record"):
            return
        _log.error("the Kafka producer is wedged: it is replaced")
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=0)

    def _fail_older_than(self, age_s: float, why: str) -> bool:
        limit = time.monotonic() - age_s
        with self._guard:
            old = [outgoing for sent_at, outgoing in self._in_flight.values() if sent_at <= limit]
            for outgoing in old:
                del self._in_flight[id(outgoing)]
        for outgoing in old:
            outgoing.refuse(LogUnavailableError(why))
        return bool(old)


def _refusal(outgoing: Outgoing, error: Exception) -> LogUnavailableError | RecordTooLargeError:
    if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
        return RecordTooLargeError(f"{outgoing.topic}: {error}")
    return unavailable(error)
