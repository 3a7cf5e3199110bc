"""Kept items as people see them: how each stands today, as what it is read, and which are meant."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import redis

from ops.answers.reading import Reading
from ops.exits import RefusedError
from ops.sections import LaneSection
from ops.site import Site
from store.answers.census import State, state_of
from store.answers.rules import Drawing
from store.answers.rulings import Ruling, in_force
from store.buffer.item import Item
from store.event import TaskInput, canonical_text
from store.tasks.rules import TaskRules
from store.tasks.tasks import TASKS

_NAMED: Final = 5


class AnswerShown(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, and how often it was given."""

    answer: Any  # a text, or JSON
    times: int


class ItemShown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One kept question. All texts are redacted, as they are kept."""

    item: str
    state: State
    label: str  # under which it is counted; where answers are no labels: its stratum
    input: TaskInput
    answers: list[AnswerShown]  # that count, as they are read today; a correction stands alone
    said: dict[str, list[AnswerShown]]  # `model@prompt version` -> what the teacher said
    asked: int  # times
    requests: float  # that it stands for
    first_asked_s: float  # Unix seconds
    last_asked_s: float
    ruling: int | None = None  # that corrects or drops it
    student: str | None = None  # what a student said before the first answer was known


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One item, read as a cycle would read it now."""

    item: Item
    state: State
    label: str
    answers: Mapping[str, int]  # as they are read today


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which items are meant: those that meet all that is said."""

    ids: frozenset[str] = frozenset()  # each, or the beginning of one
    states: tuple[State, ...] = ()
    labels: tuple[str, ...] = ()  # as they are read today
    text: str | None = None  # that the question holds, in any case and layout
    since_s: float | None = None  # first asked then or later, Unix seconds
    until_s: float | None = None  # first asked before then

    def named(self, item_id: str) -> list[str]:
        """By which of the names an item is meant."""
        begun = {len(name) for name in self.ids}
        return [item_id[:length] for length in begun if item_id[:length] in self.ids]

    @property
    def is_all(self) -> bool:
        """Whether nothing is said."""
        return self == Selection()

    def takes(self, one: Kept, rules: TaskRules) -> bool:
        """Whether an item is meant."""
        first_s = one.item.first_asked_s
        return (
            (not self.ids or bool(self.named(one.item.item_id)))
            and (not self.states or one.state in self.states)
            and (not self.labels or one.label in self.labels)
            and (self.since_s is None or first_s >= self.since_s)
            and (self.until_s is None or first_s < self.until_s)
            and (self.text is None or _plain(self.text) in _plain(" ".join(rules.texts(one.item.input))))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneItems:
    """A lane's items with all that is needed to read them."""

    section: LaneSection
    rules: TaskRules
    drawing: Drawing
    rulings: Sequence[Ruling]
    kept: Iterable[Item]

    @classmethod
    def of(cls, site: Site, client: redis.Redis, section: LaneSection, now_s: float) -> "LaneItems":
        """Those of now (Unix seconds); they are read from Redis when they are looked at.

        Raises:
            StoreUnavailableError: Redis does not answer.
            RegistryError, SettingsError: the rulings do not verify, or the prompt cannot be read.
        """
        return cls(
            section=section,
            rules=TASKS[section.task](section.terms()),
            drawing=Reading.of(section).drawing(site, client, now_s),
            rulings=site.rulings(section.lane),
            kept=site.buffer(client).items(section.lane),
        )

    def chosen(self, selection: Selection) -> Iterator[Kept]:
        """The items that are meant, in the order of their ids.

        Raises:
            StoreUnavailableError: Redis does not answer.
            RefusedError: something that is named is no item, or more than one.
        """
        missing = dict.fromkeys(sorted(selection.ids), 0)
        for item in self.kept:
            one = self.read(item)
            for name in selection.named(item.item_id):
                missing[name] += 1
            if selection.takes(one, self.rules):
                yield one
        wrong = [
            f"{n or 'no'} item{'s begin' if n > 1 else ' begins'} with {name}" for name, n in missing.items() if n != 1
        ]
        if wrong:
            more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            message = f"{self.section.lane}: {'; '.join(wrong[:_NAMED])}{more}: `understudy buffer show` names them"
            raise RefusedError(message)

    def read(self, item: Item) -> Kept:
        """An item as a cycle would read it now."""
        state, label = state_of(item, self.drawing)
        return Kept(item=item, state=state, label=label, answers=self.drawing.answers(item))

    def ruled_by(self) -> dict[str, int]:
        """Item id -> the ruling in force that corrects or drops it."""
        return {name: one.number for one in in_force(self.rulings) for name in (*one.answers, *one.items)}

    def shown(self, one: Kept, ruled_by: Mapping[str, int]) -> ItemShown:
        """An item for people and programs."""
        item, first = one.item, one.item.first_opinion
        return ItemShown(
            item=item.item_id,
            state=one.state,
            label=one.label,
            input=item.input,
            answers=self.answers_shown(one.answers),
            said={prompt: self.answers_shown(answers) for prompt, answers in sorted(item.tally.items())},
            asked=item.count,
            requests=item.mass,
            first_asked_s=item.first_asked_s,
            last_asked_s=item.last_asked_s,
            ruling=ruled_by.get(item.item_id),
            student=None if first is None else first.opinion.output,
        )

    def answers_shown(self, answers: Mapping[str, int]) -> list[AnswerShown]:
        """First the one that is learned: of labels the most frequent, of others the newest."""
        return [AnswerShown(answer=self.rules.shown(said), times=answers[said]) for said in self._ordered(answers)]

    def answer(self, one: Kept) -> str | dict[str, Any] | None:
        """The answer that is learned; None: none counts."""
        return self.rules.shown(self._ordered(one.answers)[0]) if one.answers else None

    def _ordered(self, answers: Mapping[str, int]) -> list[str]:
        if self.drawing.labelled:
            return sorted(answers, key=lambda said: (-answers[said], said))
        return sorted(answers, reverse=True)


def _plain(text: str) -> str:
    return canonical_text(text).casefold()
