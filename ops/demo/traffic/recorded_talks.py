"""Conversations and the answers that a teacher gave to them, as the recorded teacher repeats them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ops.readers.files import BadRow
from ops.readers.rows import Told
from ops.readers.talk.reader import TalkReader
from store.answers.rules import NO_RULES
from store.errors import SettingsError
from store.event import ChatInput, Message, canonical_input
from store.tasks.chat import ChatRules

Talks = Mapping[bytes, str]  # by `key_of`

_RULES = ChatRules()


def key_of(messages: Sequence[Message]) -> bytes:
    """A conversation, whatever its layout, as the product tells two apart."""
    return canonical_input(_RULES.task, _RULES.parts(ChatInput(messages=list(messages))))


def read_talks(path: Path) -> Talks:
    """The recorded answers of a log of conversations; the first counts where one comes twice.

    Raises:
        SettingsError: the file cannot be read, or a row is something else.
    """
    found: dict[bytes, str] = {}
    for row in TalkReader.open(path, {}, (), NO_RULES).rows(Told()):
        if isinstance(row, BadRow):
            message = f"{path}: line {row.line}: {row.why}"
            raise SettingsError(message)
        found.setdefault(key_of(row.value.messages), row.answer)
    return found
