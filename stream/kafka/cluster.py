"""Apache Kafka as the log: its settings, its topics, and reading a topic outside any group.

The member of a group is in `stream.kafka.source`, the writer in `stream.kafka.appender`.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import CorruptRecordError, KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError
from kafka.net.compat import KafkaNetClient

from store.buffer.ledger import LogSlot
from store.errors import DamagedRecordError, LogUnavailableError
from stream.log import Record
from stream.outbox import MAX_RECORD_BYTES
from stream.slots import start_offset

_BOOTSTRAP_TIMEOUT_MS: Final = 3000
_REQUEST_TIMEOUT_MS: Final = 5000
_STALLED_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """How to reach the cluster."""

    bootstrap: str  # host:port, comma-separated
    group: str = "understudy"
    security_protocol: str = "PLAINTEXT"  # or SSL, SASL_PLAINTEXT, SASL_SSL
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None  # ours, for mutual TLS
    ssl_keyfile: str | None = None
    sasl_mechanism: str | None = None  # such as SCRAM-SHA-512
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    session_timeout_ms: int = 10_000  # a crashed member's partitions are given away after it
    max_record_bytes: int = MAX_RECORD_BYTES
    replication_factor: int = -1  # of topics that are made; -1: the broker's default

    def client(self) -> dict[str, Any]:
        """What every client of kafka-python is told."""
        return {
            "bootstrap_servers": self.bootstrap.split(","),
            "security_protocol": self.security_protocol,
            "ssl_cafile": self.ssl_cafile,
            "ssl_certfile": self.ssl_certfile,
            "ssl_keyfile": self.ssl_keyfile,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
            "bootstrap_timeout_ms": _BOOTSTRAP_TIMEOUT_MS,
            "request_timeout_ms": _REQUEST_TIMEOUT_MS,
            "metadata_max_age_ms": 10_000,  # a recreated topic must not stay unnoticed for the default five minutes
            "reconnect_backoff_max_ms": 1000,  # the default grows to 30 s: long after the broker is back
        }


def connected(kind: Callable[..., Any], settings: KafkaSettings, **options: Any) -> Any:
    """A consumer, a producer or an admin client. One that cannot connect leaves neither thread nor socket behind.

    Raises:
        LogUnavailableError: no broker answers, or it refuses us; kafka-python's own log has the reason.
    """
    made: list[Any] = []

    def client(**config: Any) -> Any:
        made.append(KafkaNetClient(**config))
        return made[-1]

    try:
        return kind(**settings.client(), kafka_client=client, **options)
    except KafkaError as error:
        for one in made:
            one.close()
        raise unavailable(error) from error


def admin(settings: KafkaSettings) -> Any:
    """An admin client; raises like `connected`."""
    return connected(KafkaAdminClient, settings)


def topic_partitions(client: Any, topic: str) -> tuple[str, int] | None:
    """(uuid, number of partitions) as the broker has them now; None when there is no such topic.

    Raises:
        KafkaError: the broker did not answer.
    """
    (found,) = client.describe_topics([topic])
    code = found["error_code"]
    if code == UnknownTopicOrPartitionError.errno:
        return None
    if code != 0:
        message = f"topic {topic}: error {code} from the broker"
        raise KafkaError(message)
    return str(found["topic_id"]), len(found["partitions"])


def record_of(found: Any) -> Record:
    """A consumer's record as ours; a null value (a tombstone of another producer) is empty and will not decode."""
    return Record(
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        key=found.key,
        value=found.value or b"",
        headers=tuple((name, value or b"") for name, value in found.headers),
        timestamp_ms=found.timestamp,
    )


def unavailable(error: Exception) -> LogUnavailableError:
    """Any trouble with the broker, as the one error that callers retry."""
    return LogUnavailableError(f"Kafka: {type(error).__name__}: {error}")


class KafkaTopics:
    """Makes topics."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    def ensure(self, topic: str, partitions: int) -> None:
        """See `stream.log.Topics`."""
        # The limit is on the compressed batch; the writer checks the record itself.
        limits = {"max.message.bytes": str(self._settings.max_record_bytes + (1 << 20))}
        wanted = {
            "num_partitions": partitions,
            "replication_factor": self._settings.replication_factor,
            "configs": limits,
        }
        client = admin(self._settings)
        try:
            client.create_topics({topic: wanted}, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            return
        except KafkaError as error:
            raise unavailable(error) from error
        finally:
            client.close()


class KafkaHistory:
    """Reads a topic from its beginning, outside any group. Every method raises LogUnavailableError."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Connect.

        Raises:
            LogUnavailableError: no broker answers.
        """
        self._consumer = connected(
            KafkaConsumer,
            settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            max_partition_fetch_bytes=4 << 20,
        )
        try:
            self._admin = admin(settings)
        except LogUnavailableError:
            self._consumer.close(autocommit=False, timeout_ms=1000)
            raise

    def slots(self, topic: str) -> list[LogSlot]:
        """See `stream.log.History`."""
        try:
            found = topic_partitions(self._admin, topic)
        except KafkaError as error:
            raise unavailable(error) from error
        return [] if found is None else [LogSlot(topic, found[0], number) for number in range(found[1])]

    def bounds(self, slot: LogSlot) -> tuple[str, str]:
        """See `stream.log.History`."""
        self._same_topic(slot)
        partition = TopicPartition(slot.topic, slot.partition)
        try:
            begin = self._consumer.beginning_offsets([partition])[partition]
            end = self._consumer.end_offsets([partition])[partition]
        except KafkaError as error:
            raise unavailable(error) from error
        return str(begin), str(end)

    def read(self, slot: LogSlot, start: str, end: str) -> Iterator[Record]:
        """See `stream.log.History`; one reader at a time.

        Raises:
            PositionOutsideLogError: records from `start` on are no longer kept.
            DamagedRecordError: a record fails its checksum.
        """
        begin, last = self.bounds(slot)
        offset, stop = start_offset(slot, start, int(begin), int(last)), int(end)
        partition = TopicPartition(slot.topic, slot.partition)
        self._consumer.assign([partition])
        self._consumer.seek(partition, offset)
        patience = time.monotonic() + _STALLED_S
        while offset < stop:
            try:
                found = self._consumer.poll(200).get(partition, [])
                position = self._consumer.position(partition)
            except CorruptRecordError as error:
                message = f"{slot.topic}[{slot.partition}]: a record at or after offset {offset} is damaged: {error}"
                raise DamagedRecordError(message) from error
            except KafkaError as error:
                raise unavailable(error) from error
            if position > offset:  # over markers of transactions, too, which are no records
                offset, patience = position, time.monotonic() + _STALLED_S
            elif time.monotonic() > patience:
                message = f"{slot.topic}[{slot.partition}] gave nothing at {offset} of {stop} for {_STALLED_S:.0f} s"
                raise LogUnavailableError(message)
            yield from (record_of(one) for one in found if one.offset < stop)
        self._same_topic(slot)

    def close(self) -> None:
        """Stop."""
        self._consumer.close(autocommit=False, timeout_ms=1000)
        self._admin.close()

    def _same_topic(self, slot: LogSlot) -> None:
        if slot not in self.slots(slot.topic):
            message = f"topic {slot.topic} was deleted or made anew: look its slots up again"
            raise LogUnavailableError(message)
