"""What a task means by a question, by an answer and by agreement: the protocol that every task fills, without torch.

One instance a lane. Whatever stores, counts or compares asks it, and so never knows which task it carries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from store.event import Escalation, Task, TaskInput, TeacherAnswer


class Dispute(NamedTuple):
    """Two answers of which no rule tells whether they say the same."""

    teacher: str
    student: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a person gives an answer, and what it is kept with."""

    time: datetime  # with its zone
    event_id: str
    redaction_key: bytes = field(repr=False)


class TaskRules(Protocol):
    """The rules of one lane's task."""

    @property
    def task(self) -> Task:
        """Its name, as events and stored items carry it."""

    @property
    def most_said(self) -> int | None:
        """How many of a prompt version's answers an item keeps, the newest by `said`; None: all, each counted."""

    def parts(self, value: TaskInput) -> list[Any]:
        """The whole input in canonical form: equal iff two questions are the same question."""

    def texts(self, value: TaskInput) -> list[str]:
        """The texts that a person or a program wrote, in their order."""

    def words(self, value: TaskInput) -> str:
        """One canonical text: questions are near-duplicates, or of one topic, by it."""

    def redact(self, value: TaskInput, key: bytes) -> TaskInput:
        """The input with personal data in every text replaced, its layout kept.

        Raises:
            TooLaboriousError: its texts together need more work than any question of a person would.
        """

    @property
    def answers_are_texts(self) -> bool:
        """Whether a teacher's answer is in words of its own, which may hold personal data: what `private` is for."""

    def private(self, answer: TeacherAnswer, redact: Callable[[str], str]) -> TeacherAnswer:
        """A teacher's answer with every text of its own redacted; as it is where answers are no texts.

        Raises:
            TooLaboriousError: as of `redact`.
        """

    def normal(self, event: Escalation, key: bytes) -> Escalation:
        """The event as it is kept: redacted, its answers in the lane's form and in the order of the kept input.

        Raises:
            InvalidAnswerError: the teacher's answer is none that the lane takes.
            WrongShapeError: answers do not fit the input.
            TooLaboriousError: as of `redact`.
        """

    def said(self, event: Escalation) -> str:
        """The key under which a kept event's answer is counted in its item.

        Where only the newest are kept, keys sort by event time and id as texts.
        """

    def by_hand(self, value: TaskInput, given: Any, moment: Moment) -> str:
        """What a person gives for a kept question's answer, as its item counts one: redacted, in the lane's form.

        Args:
            value: the question, as it is kept.
            given: as `shown` gives one: a label; `{"scores": […]}` or `{"order": […]}`, or its JSON; a text.
            moment: when it was given, and under which key it is redacted.

        Raises:
            InvalidAnswerError, WrongShapeError: it is no answer to that question; the message says what one is.
            TooLaboriousError: as of `redact`.
        """

    def shown(self, said: str) -> str | dict[str, Any]:
        """An answer, as `said` gives it, for people and programs: what `by_hand` takes, as JSON where it is no text."""

    def stratum(self, event: Escalation) -> str:
        """The stratum of an item whose first event this is."""

    def agreed(self, event: Escalation) -> bool | None:
        """Whether the student of a kept event said what its teacher did; None: no student was asked."""

    def disputed(self, event: Escalation) -> Dispute | None:
        """What only a referee can tell of an event; None: rules tell, a verdict is known, or no student was asked."""

    def agree(self, answer: str, output: str) -> bool:
        """Whether a student's output is the teacher's answer, by the lane's definition.

        Args:
            answer: as `said` gives it.
            output: of a student's opinion, in the order of the kept input.
        """

    def conflicted(self, answers: Mapping[str, int]) -> bool:
        """Whether the teacher contradicts itself in these answers of one item, which are as `said` gives them."""
