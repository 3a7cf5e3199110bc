"""Which older questions are asked again, what that may cost, and what came of it: records, and a pure draw."""

from collections.abc import Iterable
from dataclasses import dataclass

from store.answers.rules import Drawing, answer_of
from store.answers.rulings import Sample
from store.buffer.item import Item
from store.event import TaskInput
from store.secrets import unit_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledQuestion:
    """A question to ask again."""

    item_id: str
    value: TaskInput
    said: str  # to it, as it is read today and as the task's rules spell it


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What asking again comes to, before it is done."""

    questions: tuple[SampledQuestion, ...]
    of: int  # items that could have been drawn
    usd_at_most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedAgain:
    """What came of it."""

    sample: Sample
    differing: tuple[tuple[str, str], ...]  # (label before, label now); none where answers are no labels
    unanswered: tuple[str, ...]  # why, each reason once
    usd: float


def questions(items: Iterable[Item], drawing: Drawing, prompt: str, count: int) -> tuple[list[SampledQuestion], int]:
    """Some of the items that were answered under a prompt version alone, each as likely; and of how many.

    Args:
        items: of the lane.
        drawing: how answers are read now.
        prompt: `model@prompt version`.
        count: at most.
    """
    known: list[SampledQuestion] = []
    for item in items:
        answers = item.answers(prompt)
        if not answers or drawing.heard(item) or drawing.dropped(item):
            continue
        said = drawing.read(answer_of(answers) if drawing.labelled else max(answers))  # of rankings the newest
        if said is not None:
            known.append(SampledQuestion(item_id=item.item_id, value=item.input, said=said))
    drawn = sorted(known, key=lambda one: unit_hash(f"again/{prompt}/{drawing.prompt_version}", one.item_id))
    return drawn[:count], len(known)
