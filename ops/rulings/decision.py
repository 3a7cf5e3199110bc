"""A decision about kept answers as it would be signed, and as it is told: what every kind of ruling shares."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ops.exits import RefusedError
from store.answers.rulings import Ruling, RulingKind, Rulings, Sample, in_force
from store.event import Lane
from store.registry.signing import SigningKey

_NAMED: Final = 3  # items of a ruling, by their ids


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided, or would be."""

    lane: str
    ruling: int | None  # its number; None: nothing was signed
    kind: str
    labels: list[str] = []
    to: str | None = None
    prompt: str | None = None
    undoes: int | None = None
    items: int = 0  # kept items that it is about
    settings: list[str] = []  # what to change there, a line each
    notes: list[str] = []
    sample: Sample | None = None
    done: bool = True  # false: only shown, or not accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRuling:
    """A ruling as it would be signed, with what goes with it."""

    kind: RulingKind
    labels: tuple[str, ...] = ()
    to: str | None = None
    prompt: str | None = None
    under: str | None = None
    undoes: int | None = None
    sample: Sample | None = None
    answers: Mapping[str, str] = field(default_factory=dict)  # of correct: item id -> its answer
    dropped: tuple[str, ...] = ()  # of drop: item ids
    items: int = 0
    settings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def shown(self, lane: str, *, ruling: int | None, done: bool) -> Decided:
        """For the CLI."""
        return Decided(
            lane=lane,
            ruling=ruling,
            kind=self.kind,
            labels=list(self.labels),
            to=self.to,
            prompt=self.prompt,
            undoes=self.undoes,
            items=self.items,
            settings=list(self.settings),
            notes=list(self.notes),
            sample=self.sample,
            done=done,
        )


def undoing(lane: Lane, rulings: Iterable[Ruling], number: int, kept: Callable[[Sequence[str]], int]) -> DraftRuling:
    """The counter-move to any ruling.

    Args:
        lane: whose.
        rulings: all of them.
        number: of the one that counts no more.
        kept: how many kept items have some labels; asked where the ruling is about labels.

    Raises:
        RefusedError: it is not in force.
    """
    known = {ruling.number: ruling for ruling in in_force(rulings)}
    if (ruling := known.get(number)) is None:
        having = f"in force are {', '.join(map(str, known))}" if known else "none is in force"
        message = f"ruling {number} of {lane} is not in force: {having}"
        raise RefusedError(message)
    notes = [f"it was: {told(ruling)}, by {ruling.who}: {ruling.why}"]
    if ruling.labels:
        notes.append("a label that shall be read as itself again must be on the list in the settings")
    items = kept(ruling.labels) if ruling.labels else len(ruling.answers) + len(ruling.items)
    return DraftRuling(kind="undo", undoes=number, items=items, notes=tuple(notes))


def sign(decision: DraftRuling, rulings: Rulings, key: SigningKey, *, why: str, now_s: float, expected: int) -> Ruling:
    """Put a decision at the end of the chain.

    Args:
        decision: what is decided.
        rulings: the lane's.
        key: the operator's, whose name is kept as `who`.
        why: the reason.
        now_s: Unix seconds.
        expected: the number it gets: one more than the rulings that it was decided on.

    Raises:
        MoveConflictError: somebody else has decided meanwhile.
        RegistryError: it cannot be written.
    """
    return rulings.append(
        decision.kind,
        who=key.name,
        why=why,
        key=key,
        now_s=now_s,
        expected=expected,
        labels=decision.labels,
        to=decision.to,
        prompt=decision.prompt,
        under=decision.under,
        sample=decision.sample,
        answers=decision.answers,
        items=decision.dropped,
        undoes=decision.undoes,
    )


def told(ruling: Ruling) -> str:
    """A ruling in a few words."""
    match ruling.kind:
        case "rename" | "merge":
            return f"{ruling.kind} {listing(ruling.labels)} -> {ruling.to}"
        case "retire":
            return f"retire {listing(ruling.labels)}"
        case "accept":
            return f"accept {ruling.prompt}"
        case "correct":
            return f"correct {_few(list(ruling.answers))}"
        case "drop":
            return f"drop {_few(ruling.items)}"
        case "undo":
            return f"undo {ruling.undoes}"


def listing(labels: Iterable[str]) -> str:
    """Names, one after the other."""
    return ", ".join(labels)


def _few(items: Sequence[str]) -> str:
    """Item ids, where there are few; else how many."""
    return listing(items) if len(items) <= _NAMED else f"{len(items)} items"
