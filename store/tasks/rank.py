"""Ranking: when two orders of the same documents agree, and what an item keeps of the teacher's answers.

What is promised is *the top k within epsilon*: nobody loses more than epsilon, in the teacher's own scores, at any of
the first k places. An order alone cannot be promised: two noisy copies of one teacher give another one in most lists.

A question is its query and the multiset of its documents. It is kept with the documents sorted by canonical text, and
all that is said of them in that order; of documents that are equal the better place comes first. So whoever offers
them, in whatever order, asks the same question and hears the same answer.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from heapq import nlargest
from itertools import islice
from typing import Any, ClassVar, Final, Protocol

import msgspec

from store.errors import WrongShapeError
from store.event import (
    Escalation,
    RankAnswer,
    RankEscalation,
    RankInput,
    Task,
    TaskInput,
    TeacherAnswer,
    canonical_text,
)
from store.redact import Effort, redact
from store.tasks.documents import Sorting, check_answer, places, places_of_opinion
from store.tasks.narrow import narrow
from store.tasks.rules import Moment

_FIRST: Final = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23, minutes=59)))  # no time is before it
_NEWEST: Final = 4  # answers of a prompt version that an item keeps
_STRATUM: Final = "all"
_SLACK: Final = 1e-9  # a loss of exactly epsilon is within it, whatever the subtraction rounds to


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a lane calls the same ranking: fixed before any coverage is looked at, and printed with the promise."""

    k: int = 1  # first places that count
    epsilon: float = 0.05  # of the teacher's scores; an order without scores knows no distance, and ignores it


def document_key(document: str) -> str:
    """A stable name of a document's text, equal for texts that are equal in canonical form: 32 hex digits."""
    return hashlib.sha256(canonical_text(document).encode()).hexdigest()[:32]


class Numbers(Protocol):
    """A list, a tuple or an array of numbers: settings and ingest start without numpy."""

    def __len__(self) -> int:
        """How many."""

    def __iter__(self) -> Iterator[Any]:
        """One after the other."""

    def __getitem__(self, place: int, /) -> Any:
        """One of them."""


def agree(teacher: Numbers, order: Numbers, tolerance: Tolerance) -> bool:
    """Whether the first k of `order` are within epsilon of the teacher's own, place by place.

    Args:
        teacher: [n] the teacher's scores.
        order: [n] or less, best first, as places in `teacher`; its first k are looked at.
        tolerance: k is cut to the length of the list.
    """
    return loss(teacher, order, k=tolerance.k) <= tolerance.epsilon + _SLACK


def loss(teacher: Numbers, order: Numbers, *, k: int) -> float:
    """The most that a place loses: max over i <= k of (i-th best score) - (i-th best score among the first k)."""
    best = nlargest(k, map(float, teacher))
    found = sorted((float(teacher[place]) for place in islice(order, k)), reverse=True)
    return max((wanted - had for wanted, had in zip(best, found, strict=False)), default=0.0)


def overlap(teacher: Numbers, order: Numbers, *, k: int) -> float:
    """The share of the teacher's first k among the first k of `order`: agreement with a teacher who gives no scores."""
    wanted = {int(place) for place in islice(teacher, k)}
    return len(wanted & {int(place) for place in islice(order, k)}) / len(wanted) if wanted else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSaid:
    """One answer of a teacher, about the documents as their item keeps them: scores or an order, never both."""

    scores: tuple[float, ...] | None  # [n]
    order: tuple[int, ...] | None  # places, best first; it may name a part of them

    @property
    def best_first(self) -> Sequence[int]:
        """The places that it names, best first; equal scores by place."""
        if self.order is not None:
            return self.order
        scores = self.scores or ()
        return sorted(range(len(scores)), key=lambda place: -scores[place])

    def agrees(self, order: Numbers, tolerance: Tolerance) -> bool:
        """Whether another order is the same ranking; by an order alone: whether its first k are the same documents."""
        if self.scores is not None:
            return agree(self.scores, order, tolerance)
        return overlap(self.best_first, order, k=tolerance.k) >= 1.0


def heard(answers: Iterable[str]) -> list[RankSaid]:
    """The answers that an item's tally holds, newest first."""
    return [_heard(answer) for answer in sorted(answers, reverse=True)]


def _spelled(time: datetime, event_id: str, teacher: RankAnswer) -> str:
    """An answer as an item counts it."""
    said = _Said(
        scores=None if teacher.scores is None else tuple(teacher.scores),
        order=None if teacher.order is None else tuple(teacher.order),
    )
    since_us = (time - _FIRST) // timedelta(microseconds=1)
    return f"{since_us:018d} {event_id} {msgspec.json.encode(said).decode()}"


def _answer(said: "_Said") -> RankAnswer:
    """A person's."""
    return RankAnswer(
        model="",
        prompt_version="",
        scores=None if said.scores is None else list(said.scores),
        order=None if said.order is None else list(said.order),
    )


def _heard(answer: str) -> RankSaid:
    found = msgspec.json.decode(answer.split(" ", 2)[2], type=_Said)
    return RankSaid(scores=found.scores, order=found.order)


class _Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    scores: tuple[float, ...] | None = None
    order: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRules:
    """Satisfies `store.tasks.rules.TaskRules`."""

    tolerance: Tolerance = field(default_factory=Tolerance)

    task: ClassVar[Task] = "rank"
    most_said: ClassVar[int | None] = _NEWEST

    def parts(self, value: TaskInput) -> list[Any]:
        """The canonical query, then the canonical documents, sorted: an order of asking is no question."""
        value = _input(value)
        return [canonical_text(value.query), *sorted(map(canonical_text, value.documents))]

    def texts(self, value: TaskInput) -> list[str]:
        """The query, then the documents."""
        value = _input(value)
        return [value.query, *value.documents]

    def words(self, value: TaskInput) -> str:
        """The canonical query and documents, one after the other."""
        return " ".join(self.parts(value))

    def redact(self, value: TaskInput, key: bytes) -> RankInput:
        """Query and documents with personal data replaced, their layout kept."""
        value, effort = _input(value), Effort()
        return RankInput(
            query=redact(value.query, key, effort),
            documents=[redact(document, key, effort) for document in value.documents],
        )

    @property
    def answers_are_texts(self) -> bool:
        """See `TaskRules`."""
        return False

    def private(self, answer: TeacherAnswer, redact: Callable[[str], str]) -> TeacherAnswer:  # noqa: ARG002 - no text
        """See `TaskRules`."""
        return answer

    def normal(self, event: Escalation, key: bytes) -> RankEscalation:
        """The event with its documents sorted by canonical text, and scores, order and student in their order."""
        event = _event(event)
        check_answer(event.teacher, len(event.input.documents))
        opinion = None if event.student is None else places_of_opinion(event.student, len(event.input.documents))
        redacted = self.redact(event.input, key)
        sorting = Sorting.of(redacted.documents)
        return msgspec.structs.replace(
            event,
            input=msgspec.structs.replace(redacted, documents=sorting.documents),
            teacher=sorting.answer(event.teacher),
            student=None if event.student is None or opinion is None else sorting.student(event.student, opinion),
        )

    def said(self, event: Escalation) -> str:
        """Event time, id and answer, in a form that sorts by the first two."""
        event = _event(event)
        return _spelled(event.time, event.id, event.teacher)

    def by_hand(self, value: TaskInput, given: Any, moment: Moment) -> str:
        """`{"scores": […]}` or `{"order": […]}`, of the documents in the order in which they are kept."""
        documents = _input(value).documents
        try:
            said = msgspec.json.decode(given, type=_Said) if isinstance(given, str) else msgspec.convert(given, _Said)
        except (msgspec.MsgspecError, UnicodeError) as error:
            message = f'an answer is {{"scores": […]}} with one for each of {len(documents)} documents in the order in'
            message += f' which they are kept, or {{"order": […]}} with their places from 0 on, best first: {error}'
            raise WrongShapeError(message) from error
        answer = _answer(said)
        check_answer(answer, len(documents))
        return _spelled(moment.time, moment.event_id, Sorting.of(documents).answer(answer))

    def shown(self, said: str) -> dict[str, Any]:
        """Scores, or an order, of the documents as they are kept."""
        found = _heard(said)
        return {"order": list(found.order)} if found.order is not None else {"scores": list(found.scores or ())}

    def stratum(self, event: Escalation) -> str:  # noqa: ARG002 - as the protocol has it
        """The one that there is."""
        return _STRATUM

    def agreed(self, event: Escalation) -> bool | None:
        """Whether the student's order is the teacher's ranking, by the lane's tolerance."""
        return None if event.student is None else self.agree(self.said(event), event.student.output)

    def disputed(self, event: Escalation) -> None:  # noqa: ARG002 - as the protocol has it
        """Rules tell."""
        return

    def agree(self, answer: str, output: str) -> bool:
        """Whether an order is the ranking of an answer, by the lane's tolerance."""
        return _heard(answer).agrees(places(output), self.tolerance)

    def conflicted(self, answers: Mapping[str, int]) -> bool:
        """Whether some answer's own order is another ranking by another answer."""
        said = heard(answers)
        orders = [one.best_first for one in said]
        return any(not one.agrees(order, self.tolerance) for one in said for order in orders)


def _event(event: Escalation) -> RankEscalation:
    return narrow(event, RankEscalation, "a lane of rank")


def _input(value: TaskInput) -> RankInput:
    return narrow(value, RankInput, "a lane of rank")
