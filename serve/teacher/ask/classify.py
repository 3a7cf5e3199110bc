"""Classification: a chat model is asked with the lane's prompt, and names one of the lane's labels."""

from collections.abc import Sequence
from string import Template
from typing import Final, cast

from serve.settings import TeacherSettings
from serve.teacher.ask.asking import Signal, Tab, Talk
from serve.teacher.ask.chat import ChatModel, size_bytes
from serve.teacher.wire import MAX_ANSWER_BYTES
from store.answers.prompt import prompt_version
from store.errors import SettingsError
from store.event import LabelAnswer, TaskInput, TextInput
from store.labels import parse_label


class AskForLabel:
    """Satisfies `Asking`."""

    answer_type: Final = LabelAnswer
    most_bytes: Final = MAX_ANSWER_BYTES

    def __init__(self, settings: TeacherSettings, labels: Sequence[str]) -> None:
        """Prepare the prompt for the lane's list of labels.

        Raises:
            SettingsError: there are none.
        """
        if not labels:
            message = "lanes.labels: there are none"
            raise SettingsError(message)
        self._chat = ChatModel(settings)
        self._labels = tuple(labels)
        self._format = settings.answer_format
        self._template = Template(settings.prompt)
        self.prompt_version = prompt_version(
            model=settings.model,
            prompt=settings.prompt,
            parameters=settings.parameters,
            answer_format=settings.answer_format,
        )

    def bound_usd(self, value: TaskInput) -> float:
        """See `Asking`."""
        return self._chat.bound_usd(size_bytes(self._prompt(value)))

    def talk(self, value: TaskInput, tab: Tab) -> Talk:
        """See `Asking`."""
        prompt = self._prompt(value)
        body = yield self._chat.call(prompt)
        label = parse_label(self._chat.read(body, prompt, tab), self._labels, answer_format=self._format)
        found: Signal = {"label": label}
        return found

    def _prompt(self, value: TaskInput) -> str:
        return self._template.substitute(text=cast("TextInput", value).text, labels="\n".join(self._labels))
