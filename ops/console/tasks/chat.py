"""Conversations and answers in words."""

from typing import Final

import msgspec

from ops.console.tasks.words import LINES, Question, cut
from store.event import ChatInput, Message, TaskInput
from store.tasks.chat import heard_text
from store.tasks.narrow import narrow

_ANSWER: Final = 1200  # characters


class ChatWords:
    """Satisfies `ops.console.tasks.words.Words`."""

    def question(self, value: TaskInput) -> Question:
        """The last message, with the ones before it."""
        *before, last = narrow(value, ChatInput, "a lane of chat").messages
        return Question(
            text=cut(_told(last)),
            beside=tuple(cut(_told(message)) for message in before[-LINES:]),
            left_out=max(0, len(before) - LINES),
        )

    def answer(self, value: TaskInput, said: str) -> list[str]:  # noqa: ARG002 - as the protocol has it
        """The text, and tools that it calls."""
        (found,) = heard_text([said])
        calls = [msgspec.json.encode(call).decode() for call in found.tool_calls or []]
        return [cut(line, _ANSWER) for line in (found.text, *calls) if line] or ["(nothing)"]

    def output(self, value: TaskInput, output: str) -> list[str]:  # noqa: ARG002 - as the protocol has it
        """The text."""
        return [cut(output, _ANSWER) or "(nothing)"]


def _told(message: Message) -> str:
    return f"{message.role}: {message.content}"
