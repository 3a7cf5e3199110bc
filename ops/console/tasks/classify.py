"""Texts and labels in words."""

from ops.console.tasks.words import Question, cut
from store.event import TaskInput, TextInput
from store.tasks.narrow import narrow


class ClassifyWords:
    """Satisfies `ops.console.tasks.words.Words`."""

    def question(self, value: TaskInput) -> Question:
        """The text."""
        return Question(text=cut(narrow(value, TextInput, "a lane of classify").text))

    def answer(self, value: TaskInput, said: str) -> list[str]:  # noqa: ARG002 - as the protocol has it
        """The label."""
        return [cut(said)]

    def output(self, value: TaskInput, output: str) -> list[str]:  # noqa: ARG002 - as the protocol has it
        """The label."""
        return [cut(output)]
