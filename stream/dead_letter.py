"""Records that will never become items: kept unchanged, encrypted, with the reason in the clear.

The bytes may hold anything, so they are sealed (AES-256-GCM) under the key of the record's day; dropping a day's key
erases its letters. A letter may be written twice (a crash between its acknowledgement and the application): readers
take each origin once.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from time import monotonic
from typing import Final, cast, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from store.buffer.ledger import LogSlot
from store.errors import LogError, LogUnavailableError, RecordTooLargeError
from store.event import DeadReason, Undecodable, UnknownTask
from store.log.lazy import logger
from store.secrets import DataSecret
from stream.log import Appender, Headers, History, Record, dead_topic_of

_NONCE_BYTES: Final = 12
_ID_CHARACTERS: Final = 12
_MAX_DETAIL_CHARACTERS: Final = 300
_MAX_REASON_CHARACTERS: Final = 100  # of a letter that another program wrote
_LAST_MS: Final = 253_402_300_799_000  # the end of the year 9999
_log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A record of a slot, and why it is dead."""

    slot: LogSlot
    record: Record
    fault: Undecodable
    tenant: str = ""  # that the record names, where it is one of the settings'


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter as it lies in the log."""

    reason: str
    detail: str  # for a person; holds no input text
    topic: str  # where the record came from, with the three below
    uuid: str
    partition: int
    offset: int
    time: datetime  # when the log took the record, UTC
    size: int  # bytes of the record's value
    key_day: date
    tenant: str = ""  # where the record names one of the settings'
    sealed: bytes = field(repr=False)
    secret: DataSecret = field(repr=False)

    @property
    def origin(self) -> str:
        """Where the record came from; one letter each."""
        return _origin(self.slot, self.offset)

    @property
    def slot(self) -> LogSlot:
        """Where the record came from, with its offset."""
        return LogSlot(self.topic, self.uuid, self.partition)

    @property
    def id(self) -> str:
        """A short name: a digest of where the record came from."""
        return hashlib.sha256(self.origin.encode()).hexdigest()[:_ID_CHARACTERS]

    def raw(self) -> bytes:
        """The record's value, unchanged.

        Raises:
            RecordTooLargeError: it was over the dead-letter topic's own limit; it is only where it came from.
            LogError: it was altered, or sealed under another data secret.
        """
        if not self.sealed:
            message = f"the {self.size} bytes of {self.origin} were too many for the dead-letter topic: read them there"
            raise RecordTooLargeError(message)
        nonce, sealed = self.sealed[:_NONCE_BYTES], self.sealed[_NONCE_BYTES:]
        try:
            return AESGCM(self.secret.dead_letter_key(self.key_day)).decrypt(nonce, sealed, self.origin.encode())
        except (InvalidTag, ValueError) as error:
            message = f"the dead letter of {self.origin} was altered, or sealed under another data secret"
            raise LogError(message) from error

    def record(self) -> Record:
        """The record as it was read, with its own time; key and headers are not kept. Raises like `raw`."""
        return Record(
            topic=self.topic,
            partition=self.partition,
            offset=self.offset,
            key=None,
            value=self.raw(),
            headers=(),
            timestamp_ms=round(self.time.timestamp() * 1000),
        )


class DeadLetters:
    """Writes dead letters."""

    def __init__(self, appender: Appender, secret: DataSecret, *, ack_timeout_s: float = 30.0) -> None:
        """Write through `appender`; each write waits at most `ack_timeout_s` for its acknowledgements."""
        self._appender = appender
        self._secret = secret
        self._ack_timeout_s = ack_timeout_s

    def write(self, use_case: str, letters: Sequence[Letter]) -> None:
        """Return once the log has acknowledged every letter.

        A record that does not fit the dead-letter topic is named there without its bytes.

        Raises:
            LogUnavailableError: retry with the same letters; a repeat is harmless.
        """
        topic = dead_topic_of(use_case)
        sent = [
            (letter, self._appender.append(topic, key=_key(letter), value=self._seal(letter), headers=_headers(letter)))
            for letter in letters
        ]
        deadline = monotonic() + self._ack_timeout_s
        for letter, future in sent:
            try:
                _await(future, deadline)
            except RecordTooLargeError:
                bare = self._appender.append(topic, key=_key(letter), value=b"", headers=_headers(letter))
                _await(bare, deadline)

    def _seal(self, letter: Letter) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        key = self._secret.dead_letter_key(_time(letter.record.timestamp_ms).date())
        associated = _origin(letter.slot, letter.record.offset).encode()
        return nonce + AESGCM(key).encrypt(nonce, letter.record.value, associated)


def read_dead_letters(history: History, use_case: str, secret: DataSecret) -> Iterator[DeadLetter]:
    """Every dead letter of a use case, each origin once, partition by partition; [] when there is no such topic."""
    seen: set[str] = set()
    for slot in history.slots(dead_topic_of(use_case)):
        for record in history.read(slot, *history.bounds(slot)):
            letter = _parse(record, secret)
            if letter is None:
                _log.warning("not a dead letter of ours", topic=slot.topic, partition=slot.partition, at=record.offset)
            elif letter.origin not in seen:
                seen.add(letter.origin)
                yield letter


class Burials:
    """For what reason records were buried that a release before this one read, which did not keep their task.

    That they were is certain, for what is not: it may have been for their lane, which its settings lacked.
    """

    def __init__(self, history: History, use_case: str, secret: DataSecret) -> None:
        """Read nothing before it is asked."""
        self._letters = partial(read_dead_letters, history, use_case, secret)
        self._reasons: dict[str, str] | None = None

    def __call__(self, slot: LogSlot, offset: int) -> DeadReason:
        """As its letter says; where there is none any more, for its task."""
        if self._reasons is None:
            self._reasons = {letter.origin: letter.reason for letter in self._letters()}
        said = self._reasons.get(_origin(slot, offset), UnknownTask.buried_as)
        return cast("DeadReason", said) if said in get_args(DeadReason) else UnknownTask.buried_as


def _headers(letter: Letter) -> Headers:
    """All that is kept in the clear."""
    record = letter.record
    return (
        ("reason", letter.fault.reason.encode()),
        ("detail", letter.fault.detail[:_MAX_DETAIL_CHARACTERS].encode()),
        ("topic", letter.slot.topic.encode()),
        ("uuid", letter.slot.uuid.encode()),
        ("partition", str(letter.slot.partition).encode()),
        ("offset", str(record.offset).encode()),
        ("time_ms", str(record.timestamp_ms).encode()),
        ("size_bytes", str(len(record.value)).encode()),
        ("key_day", _time(record.timestamp_ms).date().isoformat().encode()),
        ("tenant", letter.tenant.encode()),
    )


def _parse(record: Record, secret: DataSecret) -> DeadLetter | None:
    try:
        headers = {name: value.decode() for name, value in record.headers}
        return DeadLetter(
            reason=headers["reason"][:_MAX_REASON_CHARACTERS],
            detail=headers["detail"],
            topic=headers["topic"],
            uuid=headers["uuid"],
            partition=int(headers["partition"]),
            offset=int(headers["offset"]),
            time=_time(int(headers["time_ms"])),
            size=int(headers["size_bytes"]),
            key_day=date.fromisoformat(headers["key_day"]),
            tenant=headers.get("tenant", ""),
            sealed=record.value,
            secret=secret,
        )
    except (KeyError, ValueError):
        return None


def _key(letter: Letter) -> bytes:
    return _origin(letter.slot, letter.record.offset).encode()


def _origin(slot: LogSlot, offset: int) -> str:
    return f"{slot.topic}/{slot.uuid}/{slot.partition}/{offset}"


def _time(timestamp_ms: int) -> datetime:
    """The record's time; producers may send any number as one, so it is held within the calendar."""
    return datetime.fromtimestamp(min(max(timestamp_ms, 0), _LAST_MS) / 1000, UTC)


def _await(future: Future[None], deadline: float) -> None:
    try:
        future.result(max(0.0, deadline - monotonic()))
    except TimeoutError as error:
        message = "the log did not acknowledge a dead letter in time"
        raise LogUnavailableError(message) from error
