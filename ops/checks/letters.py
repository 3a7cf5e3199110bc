"""Is every decision about dead letters that is noted in Redis one that was signed, and every signed one noted?"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from store.letters.deciding import digest, number_of, says
from store.letters.decisions import InForce, LetterDecision, LetterRecord, fold

_AGAIN: Final = "the next `understudy dlq` decision notes that again"
_AWAY: Final = "`understudy dlq reopen` takes it away"
_AT_WORK_S: Final = 120.0  # a decision is signed, then noted letter by letter: what is younger may be under way


class LettersFound(msgspec.Struct, frozen=True, kw_only=True):
    """Of one use case."""

    problems: list[str]  # a sentence each
    unsigned: int  # notes of an earlier release: the next decision signs that they are genuine


def compare(
    use_case: str, notes: Mapping[str, bytes], records: Iterable[LetterRecord], *, now_s: float
) -> LettersFound:
    """Compare notes with the chain. Pure.

    Args:
        use_case: for the messages.
        notes: read before the chain was: letter -> as it lies there.
        records: of the chain, verified.
        now_s: Unix seconds.
    """
    known = list(records)
    standing = fold(known)
    young = {name for record in known if record.time_s > now_s - _AT_WORK_S for name in record.names}
    problems = dict[str, str]()
    unsigned = 0
    for name, raw in notes.items():
        if not known and number_of(raw) is None:
            unsigned += 1
        elif (why := _wrong(name, raw, standing, newest=len(known), young=name in young)) is not None:
            problems[name] = why
    for name in (standing.signed.keys() | standing.adopted.keys()) - notes.keys() - young:
        problems[name] = _missing(name, standing)
    told = [f"{use_case}: dead letter {name}: {why}" for name, why in sorted(problems.items())]
    return LettersFound(problems=told, unsigned=unsigned)


def _wrong(name: str, raw: bytes, standing: InForce, *, newest: int, young: bool) -> str | None:
    """What is wrong with a note; `young`: a decision about the letter may be under way."""
    number, signed = number_of(raw), standing.signed.get(name)
    if (number or 0) > newest:
        return f"its note names decision {number}, and the newest is {newest}: restore the registry from a backup"
    if signed is not None:
        if says(raw, signed.decision) or (young and number != signed.decision.number):
            return None
        return f"its note is not what was signed: {_told(signed.decision)}; {_AGAIN}"
    if name in standing.adopted:
        same = digest(raw) == standing.adopted[name]
        return None if same else f"its note is not the one that an earlier release made; {_AWAY}"
    return None if young else f"nobody has signed what is noted of it; {_AWAY}"


def _missing(name: str, standing: InForce) -> str:
    if (signed := standing.signed.get(name)) is not None:
        return f"it is not noted that it was {_told(signed.decision)}; {_AGAIN}"
    return "the note that an earlier release made is gone: restore Redis from a backup, or decide again"


def _told(decision: LetterDecision) -> str:
    return f"{decision.outcome} by {decision.who} (decision {decision.number}): {decision.why}"
