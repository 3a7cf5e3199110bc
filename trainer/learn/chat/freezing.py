"""How items of `chat` become rows: questions that differ by a typo and were answered alike are one."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from store.event import ChatInput, TaskInput, canonical_text
from store.near.link import Links, link
from store.tasks.chat import ChatRules, ChatSaid, heard_text, structure
from trainer.snapshot import Row

_HEX_DIGITS: Final = 16
_ASKS_FOR_MORE: Final = ("tools", "functions")  # an answer may then be no text


def answer_key(said: ChatSaid) -> str:
    """A short name of an answer: equal for equal JSON, and for texts of the same words."""
    if said.tool_calls:
        return "tool_calls"
    return text_key(said.text)


def text_key(text: str) -> str:
    """As `answer_key`, of an answer's text."""
    form = structure(text) or canonical_text(text).encode()
    return hashlib.sha256(form).hexdigest()[:_HEX_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFreezing:
    """Satisfies `trainer.snapshot.Freezing`."""

    rules: ChatRules = field(default_factory=ChatRules)

    def words(self, value: TaskInput) -> str:
        """What was said so far, instructions left out."""
        return self.rules.words(value)

    def label(self, answers: Mapping[str, int]) -> str:
        """A name of the different answers: equal for equal ones."""
        keys = sorted({answer_key(said) for said in heard_text(answers)})
        return keys[0] if len(keys) == 1 else hashlib.sha256("\0".join(keys).encode()).hexdigest()[:_HEX_DIGITS]

    def soft(self, answers: Mapping[str, int]) -> None:  # noqa: ARG002 - answers are no labels here
        """Answers are no labels."""
        return

    def conflicted(self, answers: Mapping[str, int]) -> bool:
        """Whether two answers are different JSON."""
        return self.rules.conflicted(answers)

    def links(self, rows: Sequence[Row]) -> Links:
        """Near-duplicates that were answered alike."""
        return link([row.words for row in rows], [row.label for row in rows])

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:  # noqa: ARG002 - as the protocol has it
        """None."""
        return ()

    def learns(self, row: Row, labels: Collection[str]) -> bool:  # noqa: ARG002 - as the protocol has it
        """Whether the newest answer is a text, to a question that asks for one."""
        said = heard_text(row.answers)[0]
        return bool(said.text.strip()) and not said.tool_calls and answerable(row.input)


def answerable(value: TaskInput) -> bool:
    """Whether a student may answer: one text is asked for, and every message is one."""
    return isinstance(value, ChatInput) and not any(value.shape.get(name) for name in _ASKS_FOR_MORE) and (
        value.shape.get("n", 1) == 1
    )
