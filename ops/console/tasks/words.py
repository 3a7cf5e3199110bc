"""What the console needs to know of a task: a question and an answer in words, cut to what a page can hold."""

from dataclasses import dataclass
from typing import Final, Protocol

from store.event import TaskInput

LINE: Final = 400  # characters
LINES: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, with what belongs to it: documents that are offered, or what was said before."""

    text: str
    beside: tuple[str, ...] = ()
    left_out: int = 0  # of these, more than a page holds


class Words(Protocol):
    """A task's questions and answers in words."""

    def question(self, value: TaskInput) -> Question:
        """A question as its item keeps it: redacted."""

    def answer(self, value: TaskInput, said: str) -> list[str]:
        """A teacher's answer, as a tally spells it, in lines."""

    def output(self, value: TaskInput, output: str) -> list[str]:
        """A student's answer, in lines."""


def cut(text: str, most: int = LINE) -> str:
    """The beginning of a text that is too long."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
