"""A user's own log as a backtest reads it: texts, the teacher's recorded answers and, if there are any, true labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ops.readers.columns import ID_COLUMNS, LABEL, TEXT, Sought, Survey, id_of, label_of, nothing_in, text_of, value_at
from ops.readers.files import BadRow, rows_of
from ops.readers.times import READABLE_TIMES, TIME_COLUMNS, moment_of
from store.answers.rules import NO_RULES, Rules
from store.errors import InvalidAnswerError, SettingsError, TooLaboriousError
from store.event import Task, TaskInput, TextInput, canonical_text
from store.labels import folded, listed
from store.redact import redact
from store.tasks.rank import Tolerance
from store.tasks.rules import TaskRules
from store.tasks.tasks import TASKS, LaneTerms

GOLD: Final = Sought(
    flag="--gold",
    what=LABEL.what,
    names=("gold", "true_label", "gold_label", "ground_truth", "truth"),
    read=label_of,
)
MAX_DAYS: Final = 3660.0  # ten years: a log that seems longer has a wrong time in it
KEY: Final = b"understudy backtest: no secret, the log is the user's own"
_CHECKED_CHARS: Final = 10_000  # a shorter text can be redacted, whatever it is
_SHORTEST_DAYS: Final = 0.5  # of a log that says what a day costs
_DAY_S: Final = 86_400.0
_START_S: Final = 1_767_225_600.0  # of logs that say no time: the first day of 2026, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnNames:
    """Columns that the user named; None: found by their usual names. A dot goes into an object."""

    text: str | None = None
    label: str | None = None
    gold: str | None = None
    id: str | None = None
    time: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The good rows in order of time."""

    path: Path
    texts: list[str]
    labels: list[str | None]  # the teacher's; None: unusable
    gold: list[str | None]
    ids: list[str]
    times_s: NDArray[np.float64]  # Unix seconds, ascending
    timed: bool  # the times are the log's own
    per_day: bool = True  # by its own times or the user's word it is known how long the log is
    skipped: int
    bad: list[BadRow]  # all that were skipped
    untimed_why: str | None = None  # why the times are not the log's own, though some row has one; a sentence
    spellings: int = 0  # of the labels among the teacher's answers
    off_list: int = 0  # answers that are none of the lane's labels, and so unusable
    task: Task = "classify"
    values: list[TaskInput] = field(default_factory=list)  # the questions, redacted, as an item keeps them
    tolerance: Tolerance | None = None  # of a ranking: what is called the same
    proposal: str = ""  # of a tolerance, in words

    @property
    def terms(self) -> LaneTerms:
        """What a lane's settings would say of its answers."""
        if self.tolerance is not None:
            return LaneTerms(tolerance=self.tolerance)
        return LaneTerms(labels=self.label_set)

    @property
    def rules(self) -> TaskRules:
        """What the task means by a question, an answer and agreement."""
        return TASKS[self.task](self.terms)

    @property
    def agreement(self) -> str | None:
        """What is called the same answer, in words; None: the very same."""
        return None if self.tolerance is None else f"top {self.tolerance.k} within {self.tolerance.epsilon:g}"

    def in_its_words(self, said: str | None, output: str) -> str:
        """An output as the teacher would have said it, where it agrees; else as it is."""
        if self.tolerance is None or said is None or not output:  # labels are compared as they are
            return output
        return said if self.rules.agree(said, output) else output

    @property
    def rows(self) -> int:
        """How many rows are replayed."""
        return len(self.texts)

    @property
    def days(self) -> float:
        """The log's time, at least one day."""
        return max(1.0, float(self.times_s[-1] - self.times_s[0]) / _DAY_S)

    @property
    def label_set(self) -> tuple[str, ...]:
        """What the teacher ever answers, sorted; none where answers are no labels."""
        if self.tolerance is not None:
            return ()
        return tuple(sorted({label for label in self.labels if label is not None}))

    @property
    def unusable(self) -> int:
        """Rows without a usable teacher answer."""
        return sum(label is None for label in self.labels)

    @property
    def has_gold(self) -> bool:
        """Whether any row has a true label."""
        return any(label is not None for label in self.gold)

    def sub(self, places: Sequence[int]) -> "Log":
        """Some of the rows, in this order, over the times of these rows."""
        return replace(
            self,
            texts=[self.texts[place] for place in places],
            labels=[self.labels[place] for place in places],
            gold=[self.gold[place] for place in places],
            ids=[self.ids[place] for place in places],
            times_s=np.sort(self.times_s[list(places)]),
            values=[self.values[place] for place in places],
        )


class LogLine(NamedTuple):
    """A good row as the file has it."""

    number: int
    time_s: float | None
    time_column: str | None  # where the row has anything that may be a time
    id: str | None
    text: str
    label: str | None
    gold: str | None
    value: TaskInput


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


def check_days(days: float | None) -> None:
    """Refuse a length that no log has.

    Raises:
        SettingsError: the message names the flag.
    """
    if days is not None and not 0 < days <= MAX_DAYS:
        message = f"--days {days:g}: give a number above 0, and at most {MAX_DAYS:,.0f}"
        raise SettingsError(message)


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


def log_of(path: Path, lines: list[LogLine], bad: list[BadRow], days: float | None) -> Log:
    """The good rows in order of time; errors as of `read_log`."""
    moments = {line.time_s for line in lines}
    timed = None not in moments and (len(moments) > 1 or len(lines) == 1)
    times_s: NDArray[np.float64] = _START_S + np.arange(len(lines), dtype=np.float64) * (
        (days or 1.0) * _DAY_S / len(lines)
    )
    if timed:
        lines = sorted(lines, key=lambda line: line.time_s or 0.0)
        times_s = np.array([line.time_s for line in lines], np.float64)
        _check_span(path, times_s, lines)
    return Log(
        path=path,
        texts=[line.text for line in lines],
        values=[line.value for line in lines],
        labels=[line.label for line in lines],
        gold=[line.gold for line in lines],
        ids=[line.id or f"line-{line.number}" for line in lines],
        times_s=times_s,
        timed=timed,
        per_day=days is not None or (timed and float(times_s[-1] - times_s[0]) >= _SHORTEST_DAYS * _DAY_S),
        skipped=len(bad),
        bad=bad,
        untimed_why=_untimed_why(lines),
    )


def _check_span(path: Path, times_s: NDArray[np.float64], lines: list[LogLine]) -> None:
    """Refuse a log that by its own times, which ascend, is longer than `--days` may be."""
    days = float(times_s[-1] - times_s[0]) / _DAY_S
    if days > MAX_DAYS:
        first, last = lines[0], lines[-1]
        message = (
            f"{path}: its times span {days:,.0f} days, at most {MAX_DAYS:,.0f} can be replayed: line {first.number} is"
            f" the earliest and line {last.number} the latest: correct {first.time_column} there, or leave the row out"
        )
        raise SettingsError(message)


def _untimed_why(lines: list[LogLine]) -> str | None:
    """Why the times are not the log's own, by the first line that spoils them; None: they are, or there are none."""
    column = next((line.time_column for line in lines if line.time_column is not None), None)
    without = [line for line in lines if line.time_s is None]
    if column is None:
        return None
    if not without and len(lines) > 1 and len({line.time_s for line in lines}) == 1:
        return (
            f"every row has the same time under {column}, as of an export: the log's times are not used, its rows are"
            " spread evenly over --days"
        )
    if not without:
        return None
    first = next((line for line in without if line.time_column is not None), without[0])
    what = f"no time, though other rows have one under {column}"
    if first.time_column is not None:
        what = f"what is under {first.time_column} is no time that can be read ({READABLE_TIMES})"
    return f"line {first.number}: {what}: the log's times are not used, its rows are spread evenly over --days"


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
