"""A user's own log of conversations as a backtest reads it: conversations as an item keeps them, and the answers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ops.backtest.log import KEY, Log, LogLine, check_days, log_of
from ops.backtest.tasks.lists import FACTS
from ops.readers.files import BadRow
from ops.readers.rows import Told
from ops.readers.talk.reader import TalkReader, TalkRow
from store.answers.rules import NO_RULES
from store.errors import InvalidAnswerError, SettingsError, TooLaboriousError, WrongShapeError
from store.tasks.chat import ChatRules, ChatTerms

_RULES: Final = ChatRules()


def read_conversations(path: Path, named: Mapping[str, str], days: float | None, terms: ChatTerms) -> Log:
    """Read a log of conversations. A row without an answer is skipped, as an import skips it.

    Args:
        path: the file.
        named: columns that the user named, by flag.
        days: as of `read_log`.
        terms: how far a student reads and writes.

    Raises:
        SettingsError: the file cannot be read, a column cannot be told, or no row is usable; it names the flag.
    """
    check_days(days)
    bad, lines = list[BadRow](), list[LogLine]()
    for row in TalkReader.open(path, named, (), NO_RULES).rows(Told()):
        line = row if isinstance(row, BadRow) else _line(row)
        if isinstance(line, BadRow):
            bad.append(line)
        else:
            lines.append(line)
    if not lines:
        why = f": line {bad[0].line}: {bad[0].why}" if bad else ""
        message = f"{path}: no row has a conversation with an answer, so there is nothing to learn{why}"
        raise SettingsError(message)
    return replace(log_of(path, lines, bad, days), task="chat", chat=terms)


def _line(row: TalkRow) -> LogLine | BadRow:
    """A conversation as its item keeps it."""
    try:
        event = _RULES.normal(row.event(FACTS), KEY)
    except (InvalidAnswerError, WrongShapeError, TooLaboriousError) as error:
        return BadRow(line=row.line, why=str(error))
    return LogLine(
        number=row.line,
        time_s=row.moment.time_s,
        time_column=row.moment.column,
        id=row.id,
        text=_RULES.words(event.input),
        label=_RULES.said(event),
        gold=None,
        value=event.input,
    )
