"""The signed chain of moves between versions; who serves is a fold over it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal, assert_never

import msgspec

from store.errors import BrokenChainError
from store.event import Lane
from store.registry.chain import GENESIS, Chain, RecordKind
from store.registry.signing import SigningKey, TrustedKeys

MoveKind = Literal["submit", "promote", "decline", "rollback", "pin", "resume", "pause"]

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


def promoted(moves: Iterable[Move]) -> list[str]:
    """The versions that were promoted, oldest first."""
    return [_of(move) for move in moves if move.kind == "promote"]


class Moves(Chain[Move, Lane]):
    """The moves of one lane. Use one instance per thread."""

    def __init__(self, directory: Path, trusted: TrustedKeys, lane: Lane) -> None:
        """Use the chain in `directory`; nothing is written before the first `append`."""
        super().__init__(directory, trusted, lane, _KIND)
        self._folded: tuple[int, Standing] = (0, Standing())  # of how many moves

    def standing(self, monotonic_s: float) -> Standing:
        """Where they lead, for one who looks every second; verified, and with errors, as in `follow`."""
        moves = self.follow(monotonic_s)
        if len(moves) != self._folded[0]:
            self._folded = (len(moves), fold(moves))
        return self._folded[1]

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
            lane=self.owner,
            version=version,
            previous_sha256=GENESIS,
            who=who,
            why=why,
            time_s=now_s,
            anchor=anchor,
            candidate=candidate,
        )
        return self.add(move, key, what=kind, expected=expected)


def contradiction(move: Move) -> str | None:
    """What is wrong with a move whose fields are each well formed."""
    if (move.version is not None) != (move.kind in _OF_A_VERSION):
        return f"{move.kind} {'needs a' if move.version is None else 'takes no'} version"
    if move.candidate is not None and move.kind not in _VERDICTS:
        return f"{move.kind} answers no candidate: only a verdict does"
    if move.anchor and move.kind != "promote":
        return f"{move.kind} sets no anchor: only a promotion does"
    return None


_KIND: Final = RecordKind(name="move", owners="lane", owner=lambda move: move.lane, record=Move, odd=contradiction)
