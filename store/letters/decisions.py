"""Decisions about a use case's dead letters: a signed, numbered chain beside the moves and rulings of its lanes.

Redis holds a note of each, by which letters are counted and decided on once. What was signed tells whether a note is
genuine, and brings back one that is gone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec

from store.registry.chain import GENESIS, Chain, RecordKind
from store.registry.manifest import Sha256
from store.registry.signing import SigningKey, TrustedKeys

Settlement = Literal["replayed", "dropped"]
LetterMove = Literal["replay", "drop", "reopen", "adopt"]

MOST_LETTERS: Final = 500  # of one record
_OUTCOMES: Final[Mapping[LetterMove, Settlement]] = MappingProxyType({"replay": "replayed", "drop": "dropped"})

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Reason = Annotated[str, msgspec.Meta(max_length=100)]
Letters = Annotated[dict[Reason, list[Name]], msgspec.Meta(max_length=MOST_LETTERS)]


class LetterDecision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one dead letter, as it is noted."""

    outcome: Settlement
    who: str
    why: str
    at_s: float  # Unix seconds
    number: int | None = None  # under which it was signed; None: by an earlier release, which did not sign


class LetterRecord(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"schema_version": "schema"}
):
    """One decision about some dead letters of a use case."""

    schema_version: Literal[1] = 1
    number: Annotated[int, msgspec.Meta(ge=1, le=99_999_999)]
    kind: LetterMove
    use_case: Name
    previous_sha256: Sha256  # of the file before this one
    who: Name
    why: Annotated[str, msgspec.Meta(max_length=2000)]
    time_s: float  # Unix seconds
    letters: Letters = {}  # by why they are dead: ids
    gone: Annotated[
        dict[Reason, int], msgspec.Meta(max_length=MOST_LETTERS)
    ] = {}  # of drop: counted, no more in the log
    notes: Annotated[dict[Name, Sha256], msgspec.Meta(max_length=MOST_LETTERS)] = {}  # of adopt: letter -> its note

    @property
    def count(self) -> int:
        """Of how many letters it tells."""
        return sum(map(len, self.letters.values())) + sum(self.gone.values()) + len(self.notes)

    @property
    def names(self) -> list[str]:
        """Under which names what it tells is noted."""
        return [
            *(name for names in self.letters.values() for name in names),
            *map(self.gone_name, self.gone),
            *self.notes,
        ]

    def gone_name(self, reason: str) -> str:
        """Under which name letters are noted that the log no longer has."""
        return f"gone:{reason}:{self.number}"


class LetterDecisions(Chain[LetterRecord, str]):
    """The decisions of one use case. Use one instance per thread."""

    def __init__(self, directory: Path, trusted: TrustedKeys, use_case: str) -> None:
        """Use the chain in `directory`; nothing is written before the first `append`."""
        super().__init__(directory, trusted, use_case, _KIND)

    def append(
        self,
        kind: LetterMove,
        *,
        who: str,
        why: str,
        key: SigningKey,
        now_s: float,
        expected: int | None = None,
        letters: Mapping[str, Sequence[str]] = MappingProxyType({}),
        gone: Mapping[str, int] = MappingProxyType({}),
        notes: Mapping[str, str] = MappingProxyType({}),
    ) -> LetterRecord:
        """Sign a decision and put it at the end of the chain, durably; errors are those of `Chain.add`.

        Args:
            kind: what is decided; `adopt`: that the notes of an earlier release, which did not sign, are genuine.
            who: the person that decides.
            why: the reason.
            key: must be trusted here.
            now_s: Unix seconds.
            expected: the number it must get; None takes the next free one.
            letters: reason -> ids.
            gone: reason -> how many that are counted, and no longer in the log.
            notes: letter -> sha256 of its note.
        """
        record = LetterRecord(
            number=1,
            kind=kind,
            use_case=self.owner,
            previous_sha256=GENESIS,
            who=who,
            why=why,
            time_s=now_s,
            letters={reason: list(ids) for reason, ids in letters.items()},
            gone=dict(gone),
            notes=dict(notes),
        )
        return self.add(record, key, what=kind, expected=expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """One letter's decision that is in force."""

    reason: str
    decision: LetterDecision
    count: int = 1  # letters that it stands for


@dataclass(slots=True, kw_only=True)
class InForce:
    """What a chain comes to."""

    signed: dict[str, Signed] = field(default_factory=dict)  # by letter
    adopted: dict[str, str] = field(default_factory=dict)  # letter -> sha256 of the note that an earlier release made
    reopened: dict[str, str] = field(default_factory=dict)  # letter -> its reason; it is open now


def fold(records: Iterable[LetterRecord]) -> InForce:
    """What is in force after these records, in order. Pure.

    Of two decisions about one letter the first holds until it is taken back, as in the notes.
    """
    found = InForce()
    for record in records:
        if record.kind == "adopt":
            found.adopted |= record.notes
            continue
        for name, signed in _entries(record):
            if signed is None:
                found.signed.pop(name, None)
                found.adopted.pop(name, None)
            elif name not in found.signed and name not in found.adopted:
                found.signed[name] = signed
                found.reopened.pop(name, None)
        if record.kind == "reopen":
            found.reopened |= {name: reason for reason, names in record.letters.items() for name in names}
    return found


def _entries(record: LetterRecord) -> list[tuple[str, Signed | None]]:
    """Each letter of a record with what it decides; None: it is open again."""
    outcome = _OUTCOMES.get(record.kind)
    if outcome is None:
        return [(name, None) for names in record.letters.values() for name in names]
    decision = LetterDecision(outcome=outcome, who=record.who, why=record.why, at_s=record.time_s, number=record.number)
    named = [
        (name, Signed(reason=reason, decision=decision)) for reason, names in record.letters.items() for name in names
    ]
    gone = [
        (record.gone_name(reason), Signed(reason=reason, decision=decision, count=count))
        for reason, count in record.gone.items()
    ]
    return [*named, *gone]


def _contradiction(record: LetterRecord) -> str | None:
    """What is wrong with a record whose fields are each well formed."""
    wrong = {
        "adopts notes, or does not": bool(record.notes) != (record.kind == "adopt"),
        "names letters, or does not": bool(record.letters or record.gone) != (record.kind != "adopt"),
        "counts what is gone": bool(record.gone) and record.kind != "drop",
        "counts less than one": any(count < 1 for count in record.gone.values()),
        "names too many letters": sum(map(len, record.letters.values())) > MOST_LETTERS,
    }
    return next((f"{record.kind}: {what}" for what, is_so in wrong.items() if is_so), None)


_KIND: Final = RecordKind(
    name="decision",
    owners="use case",
    owner=lambda record: record.use_case,
    record=LetterRecord,
    odd=_contradiction,
)
