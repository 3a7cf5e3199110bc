"""A log of texts and labels: its columns, its labels as the lane reads them, and which rows are no good."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ops.backtest.log import KEY, Log, LogLine, check_days, log_of
from ops.readers.columns import ID_COLUMNS, LABEL, TEXT, Sought, Survey, id_of, label_of, nothing_in, text_of, value_at
from ops.readers.files import BadRow, rows_of
from ops.readers.times import READABLE_TIMES, TIME_COLUMNS, moment_of
from store.answers.rules import NO_RULES, Rules
from store.errors import InvalidAnswerError, SettingsError, TooLaboriousError
from store.event import TextInput, canonical_text
from store.labels import folded, listed
from store.redact import redact

GOLD: Final = Sought(
    flag="--gold",
    what=LABEL.what,
    names=("gold", "true_label", "gold_label", "ground_truth", "truth"),
    read=label_of,
)
_CHECKED_CHARS: Final = 10_000  # a shorter text can be redacted, whatever it is


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnNames:
    """Columns that the user named; None: found by their usual names. A dot goes into an object."""

    text: str | None = None
    label: str | None = None
    gold: str | None = None
    id: str | None = None
    time: str | None = None


def read_log(
    path: Path,
    columns: ColumnNames,
    days: float | None,
    allowed: Sequence[str] = (),
    rules: Rules = NO_RULES,
) -> Log:
    """Read a log of JSON lines.

    Args:
        path: the file.
        columns: named columns; the others are found.
        days: what rows without a time are spread over, evenly; also all rows, if some have none that can be read. None:
            nobody knows, and nothing can be said of a day.
        allowed: the lane's labels; none: those of the log, spellings of one label as one.
        rules: how labels are read that were on the lane's list once.

    Raises:
        SettingsError: the file cannot be read, a column cannot be told, no row is usable, or the times span more than
            ten years; it names the flag or the line.
    """
    check_days(days)
    texts, labels = TEXT.called(columns.text), LABEL.called(columns.label)
    survey = Survey(path, texts, labels, GOLD)
    text, label = survey.needed(texts), survey.needed(labels)
    gold = columns.gold if columns.gold is not None else survey.found(GOLD)
    if gold == label:
        if columns.gold is not None:
            message = f"{path}: --gold {gold}: that is the column of the teacher's answer"
            raise SettingsError(message)
        gold = None
    time_names = (columns.time,) if columns.time is not None else TIME_COLUMNS
    bad: list[BadRow] = []
    lines: list[LogLine] = []
    for number, value in rows_of(path):
        found = _text(number, value, text)
        if isinstance(found, BadRow):
            bad.append(found)
            continue
        moment = moment_of(value, time_names)
        if moment.fault == "outside":
            why = f"the time in {moment.column} is outside of the years 1 to 9999, UTC"
            bad.append(BadRow(line=number, why=why))
            continue
        lines.append(
            LogLine(
                number=number,
                time_s=moment.time_s,
                time_column=moment.column,
                id=id_of(value, (columns.id,) if columns.id is not None else ID_COLUMNS),
                text=found,
                label=label_of(value_at(value, label)),
                gold=label_of(value_at(value, gold)) if gold is not None else None,
                value=TextInput(text=redact(found, KEY)),
            )
        )
    said = [line.label for line in lines if line.label is not None]
    reading = _reading([*said, *(line.gold for line in lines if line.gold is not None)], allowed, rules)
    lines = [
        line._replace(label=reading.get(line.label or ""), gold=reading.get(line.gold or ""))  # None stays None
        for line in lines
    ]
    _check(path, columns, text, label, lines, allowed)
    log = log_of(path, lines, bad, days)
    unread = sum(reading[one] is None for one in said)
    return replace(log, spellings=len({one for one in said if reading[one] is not None}), off_list=unread)


def _reading(answers: Sequence[str], allowed: Sequence[str], rules: Rules) -> dict[str, str | None]:
    """Each answer's label; None: none of the lane's."""
    if not allowed:
        return dict(folded(answers))
    return {answer: _listed(answer, allowed, rules) for answer in set(answers)}


def _listed(answer: str, allowed: Sequence[str], rules: Rules) -> str | None:
    try:
        return rules.read(listed(answer, allowed, rules.earlier), allowed)
    except InvalidAnswerError:
        return None


def _check(
    path: Path, columns: ColumnNames, text: str, label: str, lines: list[LogLine], allowed: Sequence[str]
) -> None:
    """Refuse a log that cannot be replayed, and a column that was named and is nowhere."""
    of = "of the lane's labels" if allowed else "labels"
    wanted = {
        f"--text {text}: no row has a text there": any(lines),
        f"--gold {columns.gold}: no row has a label there": columns.gold is None or any(line.gold for line in lines),
        f"--id {columns.id}: no row has a value there": columns.id is None or any(line.id for line in lines),
        f"--time {columns.time}: no row has a time there that can be read: {READABLE_TIMES}": (
            columns.time is None or any(line.time_s is not None for line in lines)
        ),
        f"--label {label}: the teacher's answers there are fewer than two {of}, so there is nothing to learn": (
            len({line.label for line in lines} - {None}) >= 2  # noqa: PLR2004 - two classes at least
        ),
    }
    for problem, fine in wanted.items():
        if not fine:
            message = f"{path}: {problem}"
            raise SettingsError(message)


def _text(line: int, value: Any, column: str) -> str | BadRow:
    if isinstance(value, BadRow):
        return value
    if not isinstance(value, Mapping):
        return BadRow(line=line, why="not a JSON object")
    found = text_of(value_at(value, column))
    if found is None:
        return BadRow(line=line, why=nothing_in(column, value_at(value, column), "text"))
    try:
        if len(found) > _CHECKED_CHARS:
            redact(found, b"")
    except TooLaboriousError as error:
        return BadRow(line=line, why=str(error))
    return canonical_text(found)
