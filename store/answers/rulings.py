"""What people decide about older answers: a signed, numbered chain of rulings beside the moves, each undoable.

The buffer keeps what was said. A ruling tells how that is read today, so that undoing it brings all back.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from store.answers.rules import Rules
from store.event import Lane
from store.registry.chain import GENESIS, Chain, RecordKind
from store.registry.signing import SigningKey, TrustedKeys

RulingKind = Literal["rename", "merge", "retire", "accept", "undo"]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Questions that the teacher was asked again before its older answers were accepted."""

    asked: int  # answered again
    agreed: int
    low: float  # of the agreement, with 95 % confidence
    high: float


class Ruling(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"schema_version": "schema"}
):
    """One decision about how older answers are read."""

    schema_version: Literal[1] = 1
    number: Annotated[int, msgspec.Meta(ge=1, le=99_999_999)]
    kind: RulingKind
    lane: Lane
    previous_sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]  # of the file before this one
    who: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    why: Annotated[str, msgspec.Meta(max_length=2000)]
    time_s: float  # Unix seconds
    labels: Annotated[list[Name], msgspec.Meta(max_length=200)] = []  # of rename, merge and retire: the older labels
    to: Name | None = None  # of rename and merge: as which they are read
    prompt: Name | None = None  # of accept: whose answers count, `model@prompt version`
    under: Name | None = None  # of accept: the prompt in force then, `model@prompt version`
    sample: Sample | None = None  # of accept: what was seen first
    undoes: int | None = None  # of undo: the ruling's number


class Rulings(Chain[Ruling]):
    """The rulings of one lane. Use one instance per thread."""

    def __init__(self, directory: Path, trusted: TrustedKeys, lane: Lane) -> None:
        """Use the chain in `directory`; nothing is written before the first `append`."""
        super().__init__(directory, trusted, lane, _KIND)

    def append(
        self,
        kind: RulingKind,
        *,
        who: str,
        why: str,
        key: SigningKey,
        now_s: float,
        expected: int | None = None,
        labels: Sequence[str] = (),
        to: str | None = None,
        prompt: str | None = None,
        under: str | None = None,
        sample: Sample | None = None,
        undoes: int | None = None,
    ) -> Ruling:
        """Sign a ruling and put it at the end of the chain, durably; errors are those of `Chain.add`.

        Args:
            kind: what is decided.
            who: the person that decides.
            why: the reason.
            key: must be trusted here.
            now_s: Unix seconds.
            expected: the number it must get; None takes the next free one.
            labels: the older labels.
            to: as which they are read.
            prompt: whose answers count.
            under: the prompt in force.
            sample: what the teacher said again.
            undoes: the ruling that counts no more.
        """
        ruling = Ruling(
            number=1,
            kind=kind,
            lane=self._lane,
            previous_sha256=GENESIS,
            who=who,
            why=why,
            time_s=now_s,
            labels=list(labels),
            to=to,
            prompt=prompt,
            under=under,
            sample=sample,
            undoes=undoes,
        )
        return self.add(ruling, key, what=kind, expected=expected)


def in_force(rulings: Iterable[Ruling]) -> list[Ruling]:
    """The rulings that nobody has undone, in order; the undoing itself left out. Pure."""
    known = list(rulings)
    undone = {ruling.undoes for ruling in known if ruling.kind == "undo"}
    return [ruling for ruling in known if ruling.kind != "undo" and ruling.number not in undone]


def rules_of(rulings: Iterable[Ruling], present: Collection[str] = ()) -> Rules:
    """How older answers are read, by these rulings. Pure.

    An acceptance speaks of the prompt that was in force; where that prompt is itself accepted later, both are.

    Args:
        rulings: in order.
        present: tally keys whose answers count anyhow, `model@prompt version`.
    """
    labels: dict[str, str | None] = {}
    accepted = set(present)
    known = in_force(rulings)
    for ruling in known:
        labels |= dict.fromkeys(ruling.labels, ruling.to)
    of_prompts = [(ruling.prompt, ruling.under) for ruling in known if ruling.kind == "accept"]
    for _ in of_prompts:  # each round finds one more, or no round does
        accepted |= {prompt for prompt, under in of_prompts if prompt is not None and under in accepted}
    return Rules(prompts=frozenset(accepted), labels=labels)


def _contradiction(ruling: Ruling) -> str | None:
    """What is wrong with a ruling whose fields are each well formed."""
    of_labels, accepts = ruling.kind in {"rename", "merge", "retire"}, ruling.kind == "accept"
    wrong = {
        "names no label" if of_labels else "takes no label": bool(ruling.labels) != of_labels,
        "names two labels": ruling.kind == "rename" and len(ruling.labels) > 1,
        "names as what it is read, or does not": (ruling.to is not None) != (ruling.kind in {"rename", "merge"}),
        "reads a label as itself": ruling.to in ruling.labels,
        "names its prompts, or does not": [ruling.prompt is None, ruling.under is None] != [not accepts] * 2,
        "has a sample": ruling.sample is not None and not accepts,
        "undoes one before it, or none": (ruling.undoes is not None) != (ruling.kind == "undo")
        or (ruling.undoes is not None and not 0 < ruling.undoes < ruling.number),
    }
    return next((f"{ruling.kind}: {what}" for what, is_so in wrong.items() if is_so), None)


_KIND: Final = RecordKind(name="ruling", record=Ruling, odd=_contradiction)
