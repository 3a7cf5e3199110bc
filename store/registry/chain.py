"""A signed chain of records in a folder: each names the hash of the file before it, and is created exclusively.

`00000042.json` holds one record and its signature. The loser of a race reads again. What is on disk is verified at
every `read`; who follows a chain verifies what is new at each look, and all of it once a minute. A chain cannot show
that its newest records were cut off; a process that has read them notices, a fresh one cannot.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from store.errors import BadSignatureError, BrokenChainError, MoveConflictError, RegistryError
from store.log.lazy import logger
from store.registry.files.durable import (
    read_bounded,
    remove_unfinished,
    require_exclusive_create,
    sync_folder,
    write_new,
)
from store.registry.manifest import canonical_json
from store.registry.signing import Signature, SigningKey, TrustedKeys

_log = logger(__name__)
_SAID: Final = 5  # of the things that are left
GENESIS: Final = "0" * 64  # what the first record names
_MAX_RECORD_BYTES: Final = 64 << 10
_SIGNATURE_BYTES: Final = 1 << 10  # of a record's file, at most, with what stands around it
_TRIES: Final = 16
WHOLE_S: Final = 60.0  # the longest for which a follower trusts what it has verified


class Record(Protocol):
    """What a chain needs of its records; each is a frozen msgspec struct."""

    @property
    def number(self) -> int:
        """From 1 on."""

    @property
    def previous_sha256(self) -> str:
        """Of the file before this one."""


Kept = TypeVar("Kept", bound=Record)
Owner = TypeVar("Owner")  # a lane, or the name of a use case


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordKind(Generic[Kept, Owner]):
    """What a chain's records are."""

    name: str  # one word; the field of the file that holds the record, and what messages call it
    owners: str  # what has a chain of these: lane, or use case
    owner: Callable[[Kept], Owner]  # whose a record is
    record: type[Kept]
    odd: Callable[[Kept], str | None]  # what is wrong with one whose fields are each well formed

    @property
    def purpose(self) -> bytes:
        """Signed before the bytes, so that a signature made for one kind of record never fits another."""
        return f"understudy/{self.name}/1\n".encode()


class Chain(Generic[Kept, Owner]):
    """The chain of one lane or use case. Use one instance per thread."""

    def __init__(self, directory: Path, trusted: TrustedKeys, owner: Owner, kind: RecordKind[Kept, Owner]) -> None:
        """Use the chain in `directory`; nothing is written before the first `add`."""
        self._directory = directory
        self._trusted = trusted
        self.owner = owner
        self._kind = kind
        self._verified: list[tuple[str, Kept]] = []  # (sha256 of the file, its record)
        self._writable = False
        self._whole_due_s: float | None = None  # when `follow` verifies all of it again; None: at once

    def read(self) -> list[Kept]:
        """Every record, oldest first, after verifying the whole chain.

        Raises:
            BrokenChainError: a record is missing, malformed, of another owner, or does not follow the one before it.
            BadSignatureError: a record is not signed by a trusted key.
        """
        while True:
            self._read_on()
            count = len(self._verified)
            stranded = [number for number in self._numbers() if number > count]
            if not stranded:
                return [record for _, record in self._verified]
            # Written after we stopped looking, unless the next one is still not there.
            if not self._path(count + 1).exists():
                name = self._kind.name
                message = f"{self._path(count + 1)} is missing though {name} {min(stranded)} is there: restore it"
                raise BrokenChainError(message)

    def follow(self, monotonic_s: float) -> list[Kept]:
        """Every record, oldest first, for one who looks every second: the cost does not grow with the chain.

        The newest record and what follows it are verified at each look; the whole chain at the first one, once a
        minute, and after an error until there is none. Errors are those of `read`.
        """
        due_s, self._whole_due_s = self._whole_due_s, None
        if due_s is None or monotonic_s >= due_s:
            self.read()
            due_s = monotonic_s + WHOLE_S
        else:
            self._read_on(trusted=max(0, len(self._verified) - 1))
        self._whole_due_s = due_s
        return [record for _, record in self._verified]

    def check(self, key: SigningKey) -> None:
        """See that what a key signs counts here, before anything is done that is to be signed.

        Raises:
            BadSignatureError: it does not.
        """
        self._trusted.check(key)

    def add(self, record: Kept, key: SigningKey, *, what: str, expected: int | None = None) -> Kept:
        """Number and sign a record, and put it at the end of the chain, durably.

        Args:
            record: with any number.
            key: must be trusted here.
            what: is decided, for a message.
            expected: the number it must get, one more than the records it was decided on; None takes the next free
                one, whatever was decided in the meantime.

        Raises:
            MoveConflictError: another writer has the number. Read the chain and decide anew.
            RegistryError: the record is malformed, or the folder cannot hold a chain.
            BrokenChainError, BadSignatureError: the chain is broken, or the key is not trusted.
        """
        for _ in range(_TRIES if expected is None else 1):
            count = len(self.read())
            if expected is not None and expected != count + 1:
                break
            before = self._verified[-1][0] if self._verified else GENESIS
            placed: Any = record  # a struct, which a protocol cannot say
            numbered: Kept = msgspec.structs.replace(placed, number=count + 1, previous_sha256=before)
            if (odd := self._kind.odd(numbered)) is not None:
                raise RegistryError(odd)
            if not self._writable:
                require_exclusive_create(self._directory)
                self._writable = True
            if self._create(numbered, key):
                self._read_on()
                return numbered
        message = f"{what} in {self.owner}: another writer moved first; read the {self._kind.name}s and decide anew"
        raise MoveConflictError(message)

    def _read_on(self, *, trusted: int = 0) -> None:
        """Hash the verified files again, but for the first `trusted`, then verify what follows them."""
        verified = self._verified[:trusted]
        while True:
            path = self._path(len(verified) + 1)
            try:
                data = read_bounded(path, _MAX_RECORD_BYTES)
            except FileNotFoundError:
                break
            digest = hashlib.sha256(data).hexdigest()
            known = self._verified[len(verified)] if len(verified) < len(self._verified) else None
            if known is None:
                known = (digest, self._verify(path, data, verified))
            elif known[0] != digest:
                message = f"{path} was changed after it had been verified: restore it from a backup"
                raise BrokenChainError(message)
            verified.append(known)
        if len(verified) < len(self._verified):
            message = f"{path} is gone after it had been verified: restore it from a backup"
            raise BrokenChainError(message)
        self._verified = verified

    def _verify(self, path: Path, data: bytes, before: Sequence[tuple[str, Kept]]) -> Kept:
        name = self._kind.name
        try:
            body, signature = self._opened(data)
            record = msgspec.json.decode(body, type=self._kind.record)
            canonical = canonical_json(msgspec.json.decode(data)) == data
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            message = f"{path} is not a {name} that this release reads: {error}"
            raise BrokenChainError(message) from error
        if not canonical:
            message = f"{path} is not canonical JSON"
            raise BrokenChainError(message)
        try:
            self._trusted.verify(self._kind.purpose + body, signature)
        except BadSignatureError as error:
            message = f"{path}: {error}"
            raise BadSignatureError(message) from error
        if (owner := self._kind.owner(record)) != self.owner:
            message = f"{path} is a {name} of {self._kind.owners} {owner}, not of {self.owner}"
            raise BrokenChainError(message)
        if record.number != len(before) + 1 or record.previous_sha256 != (before[-1][0] if before else GENESIS):
            message = f"{path} ({name} {record.number}) does not follow the {name} before it"
            raise BrokenChainError(message)
        if (odd := self._kind.odd(record)) is not None:
            message = f"{path}: {odd}"
            raise BrokenChainError(message)
        return record

    def _opened(self, data: bytes) -> tuple[bytes, Signature]:
        """The bytes that were signed, and the signature.

        Raises:
            msgspec.MsgspecError: the file holds anything else.
        """
        parts = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if parts.keys() != {self._kind.name, "signature"}:
            message = f"it holds {', '.join(sorted(parts))}"
            raise msgspec.ValidationError(message)
        return bytes(parts[self._kind.name]), msgspec.json.decode(parts["signature"], type=Signature)

    def _create(self, record: Kept, key: SigningKey) -> bool:
        """Write the record aside, then give it its name, which works for one writer only."""
        name = self._kind.name
        body = self._encoded(record)
        signature = key.sign(self._kind.purpose + body)
        self._trusted.verify(self._kind.purpose + body, signature)
        data = canonical_json({name: msgspec.json.decode(body), "signature": signature})
        temporary = self._directory / f".{record.number:08d}-{secrets.token_hex(8)}.tmp"
        try:
            write_new(temporary, data)
            won = _link(temporary, self._path(record.number))
        except OSError as error:
            message = f"{name} {record.number} could not be written to {self._directory}: {error}"
            raise RegistryError(message) from error
        finally:
            with suppress(OSError):  # the sweep below, or a later one, would find it as well
                temporary.unlink()
        try:
            sync_folder(self._directory)
        except OSError as error:
            message = f"{name} {record.number} was made in {self._directory}, but may not outlive a power cut: {error}"
            raise RegistryError(message) from error
        self._sweep(record.number)
        return won

    def _encoded(self, record: Kept) -> bytes:
        """The record's canonical bytes, once they have been seen to read back.

        Raises:
            RegistryError: a field is malformed, or the record is larger than one that would be read.
        """
        try:
            body = canonical_json(record)
            msgspec.json.decode(body, type=self._kind.record)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            message = f"the {self._kind.name} cannot be written: {error}"
            raise RegistryError(message) from error
        if len(body) > _MAX_RECORD_BYTES - _SIGNATURE_BYTES:
            message = f"the {self._kind.name} cannot be written: {len(body)} bytes are too many"
            raise RegistryError(message)
        return body

    def _sweep(self, number: int) -> None:
        """Remove unfinished records whose number is taken: their writers have lost, or are dead. It undoes nothing."""
        odd: list[str] = []
        for path in sorted(self._directory.glob(".*.tmp")):
            if path.name[1:9].isdecimal() and int(path.name[1:9]) <= number:
                why = remove_unfinished(path)
                odd += [] if why is None else [f"{path}: {why}"]
        if odd:
            _log.warning(
                f"unfinished {self._kind.name}s are left", owner=str(self.owner), count=len(odd), odd=odd[:_SAID]
            )

    def _numbers(self) -> list[int]:
        if not self._directory.is_dir():
            return []
        names = [path.stem for path in self._directory.iterdir() if path.suffix == ".json"]
        return [int(name) for name in names if name.isdecimal() and len(name) == 8]  # noqa: PLR2004 - zero-padded

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08d}.json"


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):
        return False  # not found: the winner has swept our temporary file away
    return True
