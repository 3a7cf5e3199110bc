"""The kept questions of a lane: by label, state and topic with examples, and which audits found wrong.

A page looks at so many at most. They are read in the order of their ids, which are keyed hashes: a draw by chance.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappush, heappushpop
from itertools import islice
from typing import Final, NamedTuple

import redis

from ops.answers.reading import Reading
from ops.console.tasks.tasks import TASKS as WORDS
from ops.console.tasks.words import Question, Words
from ops.sections import LaneSection
from ops.site import Site
from store.answers.census import State, state_of
from store.answers.rules import Drawing
from store.buffer.item import Item
from store.event import wall_clock_s
from store.near.words import words_of
from store.registry.manifest import Topic
from store.tasks.rules import TaskRules
from store.tasks.tasks import TASKS

MOST: Final = 5_000  # questions that are looked at
EACH: Final = 12  # examples of a kind
_PAUSE_EVERY: Final = 50  # questions; between them the gateway's own threads have their turn
_PAUSE_S: Final = 0.001

Shelf = tuple[str, str]  # what is shown together: ("label", its name), ("state", …), ("topic", …), ("conflict", "")
CONFLICT: Final[Shelf] = ("conflict", "")
WRONG: Final[Shelf] = ("wrong", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerShown:
    """One answer of the teacher to a question."""

    lines: list[str]
    times: int
    prompt: str  # `model@prompt version`
    counts: bool  # answers under this prompt are read today


@dataclass(frozen=True, slots=True, kw_only=True)
class OpinionShown:
    """What the student said before the first answer of the teacher was known."""

    lines: list[str]
    version: str
    confidence: float
    agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One kept question, for a person: redacted, and cut to what a page can hold."""

    question: Question
    state: State
    label: str
    answers: list[AnswerShown]
    student: OpinionShown | None
    count: int  # events
    requests: float  # that it stands for
    last_s: float  # asked, Unix seconds
    conflicted: bool  # the teacher contradicts itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was found in the questions that were looked at."""

    seen: int
    whole: bool  # there are no others
    counts: Mapping[Shelf, int]
    examples: Mapping[Shelf, list[Example]]  # the newest of each
    audited: int  # questions that only audits have put to the teacher
    damaged: int  # values of the buffer that were found damaged

    def of(self, kind: str) -> dict[str, int]:
        """The counts of one kind of shelf, the largest first."""
        found = {name: n for (what, name), n in self.counts.items() if what == kind}
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


class _Placed(NamedTuple):
    """An item on its shelf, the newest last."""

    last_s: float
    item_id: str
    item: Item
    state: State
    label: str


def look(site: Site, client: redis.Redis, section: LaneSection, topics: Iterable[Topic]) -> Looked:
    """Look through a lane's questions; topics are the champion's.

    Raises:
        StoreUnavailableError: Redis does not answer.
        CorruptItemError: an item was written by another release.
        RegistryError, SettingsError: how answers are read cannot be told.
    """
    rules = TASKS[section.task](section.terms())
    drawing = Reading.of(section).drawing(site, client, wall_clock_s())
    named = {topic.name: frozenset(words_of(topic.name)) for topic in topics}
    buffer = site.buffer(client)
    items = buffer.items(section.lane)
    counts: Counter[Shelf] = Counter()
    shelves: dict[Shelf, list[_Placed]] = {}
    seen = audited = 0
    for item in islice(_unhurried(items), MOST):
        seen += 1
        audited += is_audited(item)
        state, label = state_of(item, drawing)
        placed = _Placed(item.last_asked_s, item.item_id, item, state, label)
        for shelf in _shelves_of(placed, rules, drawing, named):
            counts[shelf] += 1
            _keep(shelves.setdefault(shelf, []), placed)
    return Looked(
        seen=seen,
        whole=next(items, None) is None,
        counts=counts,
        examples={
            shelf: [_shown(one, rules, drawing, WORDS[section.task]) for one in sorted(kept, reverse=True)]
            for shelf, kept in shelves.items()
        },
        audited=audited,
        damaged=len(buffer.damaged(section.lane)),
    )


def is_audited(item: Item) -> bool:
    """Whether audits alone have put it to the teacher: what the student said of it was an answer of its own."""
    return item.first_opinion is not None and item.escalated == 0


def agrees(item: Item, rules: TaskRules) -> bool | None:
    """Whether the teacher ever said what the student's first opinion was; None: the student was not asked."""
    if item.first_opinion is None:
        return None
    opinion = item.first_opinion.opinion
    said = (answer for answers in item.tally.values() for answer in answers)
    if any(rules.agree(answer, opinion.output) for answer in said):
        return True
    return opinion.verdict is not None and opinion.verdict.agreed


def _shelves_of(
    placed: _Placed, rules: TaskRules, drawing: Drawing, topics: Mapping[str, frozenset[str]]
) -> Iterator[Shelf]:
    item = placed.item
    yield "state", placed.state
    yield "label", placed.label
    if rules.conflicted(drawing.answers(item)):
        yield CONFLICT
    if is_audited(item) and agrees(item, rules) is False:
        yield WRONG
    if topics:
        own = frozenset(words_of(rules.words(item.input)))
        best = max(topics, key=lambda name: len(topics[name] & own))
        if topics[best] & own:
            yield "topic", best


def _keep(shelf: list[_Placed], placed: _Placed) -> None:
    if len(shelf) < EACH:
        heappush(shelf, placed)
    else:
        heappushpop(shelf, placed)


def _shown(placed: _Placed, rules: TaskRules, drawing: Drawing, words: Words) -> Example:
    item, first = placed.item, placed.item.first_opinion
    return Example(
        question=words.question(item.input),
        state=placed.state,
        label=placed.label,
        answers=[
            AnswerShown(lines=words.answer(item.input, said), times=n, prompt=prompt, counts=drawing.counts(prompt))
            for prompt, answers in item.tally.items()
            for said, n in answers.items()
        ],
        student=None
        if first is None
        else OpinionShown(
            lines=words.output(item.input, first.opinion.output),
            version=first.opinion.version,
            confidence=first.opinion.confidence,
            agrees=bool(agrees(item, rules)),
        ),
        count=item.count,
        requests=item.mass,
        last_s=item.last_asked_s,
        conflicted=rules.conflicted(drawing.answers(item)),
    )


def _unhurried(items: Iterator[Item]) -> Iterator[Item]:
    for number, item in enumerate(items):
        if number % _PAUSE_EVERY == 0:
            time.sleep(_PAUSE_S)
        yield item
