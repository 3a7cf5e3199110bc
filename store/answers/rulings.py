"""What people decide about kept answers: a signed, numbered chain of rulings beside the moves, each undoable.

The buffer keeps what was said. A ruling tells how that is read today, so that undoing it brings all back, and nothing
that is delivered, replayed or rebuilt later changes what was ruled.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec

from store.answers.rules import Rules
from store.event import Lane
from store.registry.chain import GENESIS, Chain, RecordKind
from store.registry.signing import SigningKey, TrustedKeys
from store.secrets import ITEM_ID_HEX_DIGITS

RulingKind = Literal["rename", "merge", "retire", "accept", "correct", "drop", "undo"]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
ItemId = Annotated[str, msgspec.Meta(pattern=rf"\A[0-9a-f]{{{ITEM_ID_HEX_DIGITS}}}\Z")]
Said = Annotated[str, msgspec.Meta(min_length=1, max_length=48 << 10)]
MOST_ITEMS: Final = 500  # of one ruling
MOST_ANSWER_BYTES: Final = 48 << 10  # of one ruling's answers together, as JSON: a record has 64 KiB


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Questions that the teacher was asked again before its older answers were accepted."""

    asked: int  # answered again
    agreed: int
    low: float  # of the agreement, with 95 % confidence
    high: float


class Ruling(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"schema_version": "schema"}
):
    """One decision about how kept answers are read."""

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
    answers: Annotated[dict[ItemId, Said], msgspec.Meta(max_length=MOST_ITEMS)] = {}  # of correct: as items count them
    items: Annotated[list[ItemId], msgspec.Meta(max_length=MOST_ITEMS)] = []  # of drop: learned from no more
    undoes: int | None = None  # of undo: the ruling's number


class Rulings(Chain[Ruling, Lane]):
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
        answers: Mapping[str, str] = MappingProxyType({}),
        items: Sequence[str] = (),
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
            answers: item id -> its answer from now on, as the task's rules spell it in a tally; redacted.
            items: the ids of the items that are dropped.
            undoes: the ruling that counts no more.
        """
        ruling = Ruling(
            number=1,
            kind=kind,
            lane=self.owner,
            previous_sha256=GENESIS,
            who=who,
            why=why,
            time_s=now_s,
            labels=list(labels),
            to=to,
            prompt=prompt,
            under=under,
            sample=sample,
            answers=dict(answers),
            items=list(items),
            undoes=undoes,
        )
        return self.add(ruling, key, what=kind, expected=expected)


def in_force(rulings: Iterable[Ruling]) -> list[Ruling]:
    """The rulings that nobody has undone, in order; the undoing itself left out. Pure."""
    known = list(rulings)
    undone = {ruling.undoes for ruling in known if ruling.kind == "undo"}
    return [ruling for ruling in known if ruling.kind != "undo" and ruling.number not in undone]


def rules_of(rulings: Iterable[Ruling], present: Collection[str] = ()) -> Rules:
    """How kept answers are read, by these rulings. Pure.

    Of two that tell of one question the later holds. An acceptance speaks of the prompt that was in force; where that
    prompt is itself accepted later, both are.

    Args:
        rulings: in order.
        present: tally keys whose answers count anyhow, `model@prompt version`.
    """
    labels: dict[str, str | None] = {}
    ruled: dict[str, str | None] = {}
    accepted = set(present)
    known = in_force(rulings)
    for ruling in known:
        labels |= dict.fromkeys(ruling.labels, ruling.to)
        ruled |= ruling.answers | dict.fromkeys(ruling.items)
    of_prompts = [(ruling.prompt, ruling.under) for ruling in known if ruling.kind == "accept"]
    for _ in of_prompts:  # each round finds one more, or no round does
        accepted |= {prompt for prompt, under in of_prompts if prompt is not None and under in accepted}
    return Rules(prompts=frozenset(accepted), labels=labels, by_hand=ruled)


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
        "names its questions with their answers, or does not": bool(ruling.answers) != (ruling.kind == "correct"),
        "names its questions, or does not": bool(ruling.items) != (ruling.kind == "drop"),
        "undoes one before it, or none": (ruling.undoes is not None) != (ruling.kind == "undo")
        or (ruling.undoes is not None and not 0 < ruling.undoes < ruling.number),
    }
    return next((f"{ruling.kind}: {what}" for what, is_so in wrong.items() if is_so), None)


_KIND: Final = RecordKind(
    name="ruling", owners="lane", owner=lambda ruling: ruling.lane, record=Ruling, odd=_contradiction
)
