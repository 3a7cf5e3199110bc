"""A user's own log as a backtest reads it: texts, the teacher's recorded answers and, if there are any, true labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ops.readers.files import BadRow
from ops.readers.times import READABLE_TIMES
from store.errors import SettingsError
from store.event import Task, TaskInput
from store.tasks.chat import ChatTerms
from store.tasks.rank import Tolerance
from store.tasks.rules import TaskRules
from store.tasks.tasks import TASKS, LaneTerms

MAX_DAYS: Final = 3660.0  # ten years: a log that seems longer has a wrong time in it
KEY: Final = b"understudy backtest: no secret, the log is the user's own"
_SHORTEST_DAYS: Final = 0.5  # of a log that says what a day costs
_DAY_S: Final = 86_400.0
_START_S: Final = 1_767_225_600.0  # of logs that say no time: the first day of 2026, UTC


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
    chat: ChatTerms | None = None  # of conversations: how far a student reads and writes
    proposal: str = ""  # of a tolerance, in words

    @property
    def terms(self) -> LaneTerms:
        """What a lane's settings would say of its answers."""
        if self.tolerance is not None:
            return LaneTerms(tolerance=self.tolerance)
        if self.chat is not None:
            return LaneTerms(chat=self.chat)
        return LaneTerms(labels=self.label_set)

    @property
    def rules(self) -> TaskRules:
        """What the task means by a question, an answer and agreement."""
        return TASKS[self.task](self.terms)

    @property
    def agreement(self) -> str | None:
        """What is called the same answer, in words; None: the very same."""
        if self.chat is not None:
            return "the same JSON, or the same words"
        return None if self.tolerance is None else f"top {self.tolerance.k} within {self.tolerance.epsilon:g}"

    def in_its_words(self, said: str | None, output: str) -> str:
        """An output as the teacher would have said it, where it agrees; else as it is."""
        if self.agreement is None or said is None or not output:  # labels are compared as they are
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
        if self.agreement is not None:
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


def check_days(days: float | None) -> None:
    """Refuse a length that no log has.

    Raises:
        SettingsError: the message names the flag.
    """
    if days is not None and not 0 < days <= MAX_DAYS:
        message = f"--days {days:g}: give a number above 0, and at most {MAX_DAYS:,.0f}"
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
