"""Which reader reads a log for a lane: the one place in `ops/readers` where a task is chosen."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ops.readers import classify
from ops.readers.classify import TextReader
from ops.readers.files import BadRow
from ops.readers.lists import rows
from ops.readers.rank import ListReader
from ops.readers.rows import LogRow, Reader
from ops.readers.talk import reader
from ops.readers.talk.reader import TalkReader
from store.answers.rules import NO_RULES, Rules
from store.errors import SettingsError
from store.event import Task


class Opening(NamedTuple):
    """How a task's logs are opened."""

    flags: tuple[str, ...]  # that name a column
    open: Callable[[Path, Mapping[str, str], Collection[str], Rules], Reader]
    call: Callable[[Mapping[str, Any], Collection[str], Rules], LogRow | BadRow]


TASKS: Final[Mapping[Task, Opening]] = {
    "classify": Opening(("--text", "--label"), TextReader.open, classify.read_call),
    "chat": Opening(("--messages", "--answer"), TalkReader.open, reader.read_call),
    "rank": Opening(
        ("--query", "--documents", "--scores", "--order", "--query-id"),
        ListReader.open,
        lambda call, _labels, _rules: rows.read_call(call),
    ),
}


def open_reader(
    task: Task,
    path: Path,
    named: Mapping[str, str | None],
    *,
    labels: Collection[str] = (),
    rules: Rules = NO_RULES,
) -> Reader:
    """The reader of a log.

    Args:
        task: the lane's.
        path: the log.
        named: columns that the user named, by flag; None: found.
        labels: that count; a task without labels has none.
        rules: how answers are read that were on the list once.

    Raises:
        SettingsError: a column cannot be told, or a flag is of another task; the message names the flag.
    """
    reading = TASKS[task]
    given = {flag: column for flag, column in named.items() if column is not None}
    for flag in given:
        if flag not in reading.flags:
            message = f"{flag}: a log of the task {task} has no such column: there is {', '.join(reading.flags)}"
            raise SettingsError(message)
    return reading.open(path, given, labels, rules)


def read_call(task: Task, call: Mapping[str, Any], labels: Collection[str], rules: Rules) -> LogRow | BadRow:
    """One call of a teacher that somebody made, as a row of a log.

    Args:
        task: the lane's.
        call: `request` and `response` as they were, an `id`, a `time`, and for a text the question itself: `text`.
        labels: that count; a task without labels has none.
        rules: how answers are read that were on the list once.
    """
    return TASKS[task].call(call, labels, rules)
