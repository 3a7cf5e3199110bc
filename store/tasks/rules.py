"""What a task means by a question, by an answer and by agreement: the protocol that every task fills, without torch.

One instance a lane. Whatever stores, counts or compares asks it, and so never knows which task it carries.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from store.event import Escalation, Task, TaskInput, TeacherAnswer


class Dispute(NamedTuple):
    """Two answers of which no rule tells whether they say the same."""

    teacher: str
    student: str


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

    def private(self, answer: TeacherAnswer, redact: Callable[[str], str]) -> TeacherAnswer:
        """A teacher's answer with every text of its own redacted; a label or scores hold none.

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
