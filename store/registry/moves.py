"""The signed chain of moves between versions; who serves is a fold over it.

`moves/00000042.json` holds one move and its signature. Each names the hash of the file before it, each is created
exclusively, and the loser of a race reads again. What is on disk is verified at every read.

A chain cannot show that its newest moves were cut off; a process that has read them notices, a fresh one cannot.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal, assert_never

import msgspec

from store.errors import BadSignatureError, BrokenChainError, MoveConflictError, RegistryError
from store.event import Lane
from store.log.lazy import logger
from store.registry.durable import (
    read_bounded,
    remove_unfinished,
    require_exclusive_create,
    sync_folder,
    write_new,
)
from store.registry.manifest import canonical_json
from store.registry.signing import Signature, SigningKey, TrustedKeys

MoveKind = Literal["submit", "promote", "decline", "rollback", "pin", "resume", "pause"]

_log = logger(__name__)
_SAID: Final = 5  # of the things that are left
_GENESIS: Final = "0" * 64  # what the first move names
_MAX_MOVE_BYTES: Final = 64 << 10
_PURPOSE: Final = b"understudy/move/1\n"
_TRIES: Final = 16
_VERDICTS: Final = frozenset({"promote", "decline"})
_OF_A_VERSION: Final = frozenset({"submit", "promote", "decline", "rollback"})


class Move(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"schema_version": "schema"}):
    """One decision about which version serves."""

    schema_version: Literal[1] = 1
    number: Annotated[int, msgspec.Meta(ge=1, le=99_999_999)]
    kind: MoveKind
    lane: Lane
    version: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")] | None  # None for pin, resume and pause
    previous_sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]  # of the file before this one
    who: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    why: Annotated[str, msgspec.Meta(max_length=2000)]
    time_s: float  # Unix seconds
    anchor: bool = False  # of a promotion: this version is the new high-water mark
    candidate: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")] | None = None  # the submission this answers


class _MoveFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    move: msgspec.Raw  # the bytes that were signed
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a lane stands after its moves."""

    champion: str | None = None  # serves
    previous: str | None = None  # where a rollback goes: the champion before it, versions rolled back from left out
    anchor: str | None = None  # the high-water mark that a challenger is judged against as well
    pinned: bool = False  # automation does not promote
    paused: bool = False  # no cycles
    candidates: tuple[str, ...] = ()  # submitted and not yet judged, oldest first
    last_move: Move | None = None


@dataclass(frozen=True, slots=True)
class _Term:
    """One version's time as champion, and the anchor of that time."""

    version: str
    anchor: str | None


def fold(moves: Iterable[Move]) -> Standing:
    """Where these moves, in order, lead. Pure.

    A rollback ends the terms after the one it returns to, so a second rollback goes further back, never forth; the
    anchor returns with the term, since a high-water mark that a person rolled back from should bind nobody.
    """
    standing = Standing()
    terms: tuple[_Term, ...] = ()
    for move in moves:
        match move.kind:
            case "submit":
                standing = replace(standing, candidates=(*_without(standing.candidates, move.version), _of(move)))
            case "promote":
                terms = _promoted(terms, move)
                standing = replace(standing, candidates=_without(standing.candidates, move.version, move.candidate))
            case "decline":
                standing = replace(standing, candidates=_without(standing.candidates, move.version, move.candidate))
            case "rollback":
                terms = _rolled_back(terms, _of(move))
                standing = replace(standing, pinned=True)
            case "pin":
                standing = replace(standing, pinned=True)
            case "pause":
                standing = replace(standing, paused=True)
            case "resume":
                standing = replace(standing, pinned=False, paused=False)
            case _:
                assert_never(move.kind)
        standing = replace(standing, last_move=move)
    return replace(
        standing,
        champion=terms[-1].version if terms else None,
        anchor=terms[-1].anchor if terms else None,
        previous=terms[-2].version if len(terms) > 1 else None,
    )


def _promoted(terms: tuple[_Term, ...], move: Move) -> tuple[_Term, ...]:
    version = _of(move)
    before = terms[-1].anchor if terms else None
    term = _Term(version, version if move.anchor else before)
    return (*terms[:-1], term) if terms and terms[-1].version == version else (*terms, term)


def _rolled_back(terms: tuple[_Term, ...], version: str) -> tuple[_Term, ...]:
    for kept in range(len(terms), 0, -1):
        if terms[kept - 1].version == version:
            return terms[:kept]
    return (*terms, _Term(version, terms[-1].anchor if terms else None))


def _without(candidates: tuple[str, ...], *answered: str | None) -> tuple[str, ...]:
    return tuple(candidate for candidate in candidates if candidate not in answered)


def _of(move: Move) -> str:
    if move.version is None:
        message = f"move {move.number}: {move.kind} names no version"
        raise BrokenChainError(message)
    return move.version


class Moves:
    """The chain of one lane. Use one instance per thread."""

    def __init__(self, directory: Path, trusted: TrustedKeys, lane: Lane) -> None:
        """Use the chain in `directory`; nothing is written before the first `append`."""
        self._directory = directory
        self._trusted = trusted
        self._lane = lane
        self._verified: list[tuple[str, Move]] = []  # (sha256 of the file, its move)
        self._writable = False

    def read(self) -> list[Move]:
        """Every move, oldest first, after verifying the whole chain.

        Raises:
            BrokenChainError: a move is missing, malformed, of another lane, or does not follow the one before it.
            BadSignatureError: a move is not signed by a trusted key.
        """
        while True:
            self._read_on()
            count = len(self._verified)
            stranded = [number for number in self._numbers() if number > count]
            if not stranded:
                return [move for _, move in self._verified]
            # Written after we stopped looking, unless the next one is still not there.
            if not self._path(count + 1).exists():
                message = f"{self._path(count + 1)} is missing though move {min(stranded)} is there: restore it"
                raise BrokenChainError(message)

    def append(
        self,
        kind: MoveKind,
        *,
        version: str | None,
        who: str,
        why: str,
        key: SigningKey,
        now_s: float,
        expected: int | None = None,
        anchor: bool = False,
        candidate: str | None = None,
    ) -> Move:
        """Sign a move and put it at the end of the chain, durably.

        Args:
            kind: what is decided.
            version: of which version; None for pin, resume and pause.
            who: the person or process that decides.
            why: the reason, for `history`.
            key: must be trusted here.
            now_s: Unix seconds.
            expected: the number the move must get, one more than the moves it was decided on; None takes the next
                free one, whatever was moved in the meantime.
            anchor: of a promotion: the version becomes the high-water mark.
            candidate: of a verdict: the submitted version that it answers; the judged one has its own id.

        Raises:
            MoveConflictError: another writer has the number. Read the moves and decide anew.
            RegistryError: the move is malformed, or the folder cannot hold a chain.
            BrokenChainError, BadSignatureError: the chain is broken, or the key is not trusted.
        """
        move = Move(
            number=1,
            kind=kind,
            lane=self._lane,
            version=version,
            previous_sha256=_GENESIS,
            who=who,
            why=why,
            time_s=now_s,
            anchor=anchor,
            candidate=candidate,
        )
        if (odd := _contradiction(move)) is not None:
            raise RegistryError(odd)
        if not self._writable:
            require_exclusive_create(self._directory)
            self._writable = True
        for _ in range(_TRIES if expected is None else 1):
            count = len(self.read())
            if expected is not None and expected != count + 1:
                break
            before = self._verified[-1][0] if self._verified else _GENESIS
            move = msgspec.structs.replace(move, number=count + 1, previous_sha256=before)
            if self._create(move, key):
                self._read_on()
                return move
        message = f"{kind} in {self._lane}: another writer moved first; read the moves and decide anew"
        raise MoveConflictError(message)

    def _read_on(self) -> None:
        """Hash the verified files again, then verify what follows them."""
        verified: list[tuple[str, Move]] = []
        while True:
            path = self._path(len(verified) + 1)
            try:
                data = read_bounded(path, _MAX_MOVE_BYTES)
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

    def _verify(self, path: Path, data: bytes, before: Sequence[tuple[str, Move]]) -> Move:
        try:
            file = msgspec.json.decode(data, type=_MoveFile)
            move = msgspec.json.decode(file.move, type=Move)
            canonical = canonical_json(msgspec.json.decode(data)) == data
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            message = f"{path} is not a move that this release reads: {error}"
            raise BrokenChainError(message) from error
        if not canonical:
            message = f"{path} is not canonical JSON"
            raise BrokenChainError(message)
        try:
            self._trusted.verify(_PURPOSE + bytes(file.move), file.signature)
        except BadSignatureError as error:
            message = f"{path}: {error}"
            raise BadSignatureError(message) from error
        if move.lane != self._lane:
            message = f"{path} is a move of lane {move.lane}, not of {self._lane}"
            raise BrokenChainError(message)
        if move.number != len(before) + 1 or move.previous_sha256 != (before[-1][0] if before else _GENESIS):
            message = f"{path} (move {move.number}) does not follow the move before it"
            raise BrokenChainError(message)
        if (odd := _contradiction(move)) is not None:
            message = f"{path}: {odd}"
            raise BrokenChainError(message)
        return move

    def _create(self, move: Move, key: SigningKey) -> bool:
        """Write the move aside, then give it its name, which works for one writer only."""
        body = _encoded(move)
        signature = key.sign(_PURPOSE + body)
        self._trusted.verify(_PURPOSE + body, signature)
        data = canonical_json({"move": msgspec.json.decode(body), "signature": signature})
        temporary = self._directory / f".{move.number:08d}-{secrets.token_hex(8)}.tmp"
        try:
            write_new(temporary, data)
            won = _link(temporary, self._path(move.number))
        except OSError as error:
            message = f"move {move.number} could not be written to {self._directory}: {error}"
            raise RegistryError(message) from error
        finally:
            with suppress(OSError):  # the sweep below, or a later one, would find it as well
                temporary.unlink()
        try:
            sync_folder(self._directory)
        except OSError as error:
            message = f"move {move.number} was made in {self._directory}, but may not outlive a power cut: {error}"
            raise RegistryError(message) from error
        self._sweep(move.number)
        return won

    def _sweep(self, number: int) -> None:
        """Remove unfinished moves whose number is taken: their writers have lost, or are dead. It undoes no move."""
        odd: list[str] = []
        for path in sorted(self._directory.glob(".*.tmp")):
            if path.name[1:9].isdecimal() and int(path.name[1:9]) <= number:
                why = remove_unfinished(path)
                odd += [] if why is None else [f"{path}: {why}"]
        if odd:
            _log.warning("unfinished moves are left", lane=str(self._lane), count=len(odd), odd=odd[:_SAID])

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


def _contradiction(move: Move) -> str | None:
    """What is wrong with a move whose fields are each well formed."""
    if (move.version is not None) != (move.kind in _OF_A_VERSION):
        return f"{move.kind} {'needs a' if move.version is None else 'takes no'} version"
    if move.candidate is not None and move.kind not in _VERDICTS:
        return f"{move.kind} answers no candidate: only a verdict does"
    if move.anchor and move.kind != "promote":
        return f"{move.kind} sets no anchor: only a promotion does"
    return None


def _encoded(move: Move) -> bytes:
    """The move's canonical bytes, once they have been seen to read back.

    Raises:
        RegistryError: a field is malformed.
    """
    try:
        body = canonical_json(move)
        msgspec.json.decode(body, type=Move)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        message = f"the move cannot be written: {error}"
        raise RegistryError(message) from error
    return body
