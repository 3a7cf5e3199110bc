"""Classification: a text in, one of the lane's labels out; agreement is the same label."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from store.errors import WrongShapeError
from store.event import (
    ClassifyEscalation,
    Escalation,
    LabelAnswer,
    Task,
    TaskInput,
    TeacherAnswer,
    TextInput,
    canonical_text,
)
from store.labels import listed
from store.redact import redact
from store.tasks.narrow import narrow
from store.tasks.rules import Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyRules:
    """Satisfies `store.tasks.rules.TaskRules`."""

    labels: tuple[str, ...] = ()  # that an answer may be; none: any
    earlier: tuple[str, ...] = ()  # that were on the list once, and are kept: rulings tell how they are read

    task: ClassVar[Task] = "classify"
    most_said: ClassVar[int | None] = None

    def parts(self, value: TaskInput) -> list[Any]:
        """The canonical text."""
        return [self.words(value)]

    def texts(self, value: TaskInput) -> list[str]:
        """The one text."""
        return [_text(value)]

    def words(self, value: TaskInput) -> str:
        """The canonical text."""
        return canonical_text(_text(value))

    def redact(self, value: TaskInput, key: bytes) -> TextInput:
        """The text with personal data replaced, its layout kept."""
        return TextInput(text=redact(_text(value), key))

    @property
    def answers_are_texts(self) -> bool:
        """See `TaskRules`."""
        return False

    def private(self, answer: TeacherAnswer, redact: Callable[[str], str]) -> TeacherAnswer:  # noqa: ARG002 - no text
        """See `TaskRules`."""
        return answer

    def normal(self, event: Escalation, key: bytes) -> ClassifyEscalation:
        """The event with its label as the list spells it, and redacted: its text, and a student's that is no label."""
        event = _event(event)
        teacher = msgspec.structs.replace(event.teacher, label=listed(event.teacher.label, self.labels, self.earlier))
        student = event.student
        if student is not None and student.output not in {*self.labels, *self.earlier, teacher.label}:
            student = msgspec.structs.replace(student, output=redact(student.output, key))  # of another producer
        return msgspec.structs.replace(event, teacher=teacher, input=self.redact(event.input, key), student=student)

    def said(self, event: Escalation) -> str:
        """The label."""
        return _teacher(event).label

    def by_hand(self, value: TaskInput, given: Any, moment: Moment) -> str:  # noqa: ARG002 - as the protocol has it
        """The label, as the list spells it."""
        if not isinstance(given, str):
            message = "an answer is a label"
            raise WrongShapeError(message)
        return listed(given, self.labels)

    def shown(self, said: str) -> str:
        """The label."""
        return said

    def stratum(self, event: Escalation) -> str:
        """The label."""
        return _teacher(event).label

    def agreed(self, event: Escalation) -> bool | None:
        """Whether both said the same label."""
        return None if event.student is None else self.agree(self.said(event), event.student.output)

    def disputed(self, event: Escalation) -> None:  # noqa: ARG002 - as the protocol has it
        """Rules tell."""
        return

    def agree(self, answer: str, output: str) -> bool:
        """Whether two labels are the same."""
        return answer == output

    def conflicted(self, answers: Mapping[str, int]) -> bool:
        """Whether there is more than one label."""
        return len(answers) > 1


def _event(event: Escalation) -> ClassifyEscalation:
    return narrow(event, ClassifyEscalation, "a lane of classify")


def _teacher(event: Escalation) -> LabelAnswer:
    return _event(event).teacher


def _text(value: TaskInput) -> str:
    return narrow(value, TextInput, "a lane of classify").text
