"""A user's own log as a backtest reads it: texts, the teacher's recorded answers and, if there are any, true labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ops.imports.jsonl import (
    ID_COLUMNS,
    LABEL_COLUMNS,
    PROBED,
    TEXT_COLUMNS,
    TIME_COLUMNS,
    BadRow,
    event_time_s,
    first_usable,
    json_rows,
    named,
    value_at,
)
from store.errors import SettingsError
from store.event import canonical_text

GOLD_COLUMNS: Final = ("gold", "true_label", "gold_label", "ground_truth", "truth")
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
    skipped: int
    bad: list[BadRow]  # all that were skipped

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
        """What the teacher ever answers, sorted."""
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
        )


class _Line(NamedTuple):
    """A good row as the file has it."""

    number: int
    time_s: float | None
    id: str | None
    text: str
    label: str | None
    gold: str | None


def read_log(path: Path, columns: ColumnNames, days: float) -> Log:
    """Read a log of JSON lines.

    Args:
        path: the file.
        columns: named columns; the others are found.
        days: what rows without a time are spread over, evenly; also all rows, if some have none.

    Raises:
        SettingsError: the file cannot be read, a column cannot be told, or no row is usable; it names the flag.
    """
    if days <= 0:
        message = f"--days {days}: give a number above 0"
        raise SettingsError(message)
    probed = [row for _, row in json_rows(path, limit=PROBED) if isinstance(row, Mapping)]
    text = _column(path, probed, columns.text, TEXT_COLUMNS, "--text")
    label = _column(path, probed, columns.label, LABEL_COLUMNS, "--label")
    gold = columns.gold if columns.gold is not None else first_usable(probed, GOLD_COLUMNS)
    if gold == label:
        if columns.gold is not None:
            message = f"{path}: --gold {gold}: that is the column of the teacher's answer"
            raise SettingsError(message)
        gold = None
    time_names = (columns.time,) if columns.time is not None else TIME_COLUMNS
    bad: list[BadRow] = []
    lines: list[_Line] = []
    for number, value in json_rows(path):
        found = _text(number, value, text)
        if isinstance(found, BadRow):
            bad.append(found)
            continue
        lines.append(
            _Line(
                number=number,
                time_s=event_time_s(value, time_names),
                id=_id(value, columns.id),
                text=found,
                label=_answer(value, label),
                gold=_answer(value, gold),
            )
        )
    _check(path, columns, text, label, lines)
    return _log(path, lines, bad, days)


def _check(path: Path, columns: ColumnNames, text: str, label: str, lines: list[_Line]) -> None:
    """Refuse a log that cannot be replayed, and a column that was named and is nowhere."""
    wanted = {
        f"--text {text}: no row has a text there": any(lines),
        f"--gold {columns.gold}: no row has a label there": columns.gold is None or any(line.gold for line in lines),
        f"--id {columns.id}: no row has a value there": columns.id is None or any(line.id for line in lines),
        f"--time {columns.time}: no row has a time there that can be read: Unix seconds, or ISO 8601 with its zone": (
            columns.time is None or any(line.time_s is not None for line in lines)
        ),
        f"--label {label}: the teacher's answers there are fewer than two labels, so there is nothing to learn": (
            len({line.label for line in lines} - {None}) >= 2  # noqa: PLR2004 - two classes at least
        ),
    }
    for problem, fine in wanted.items():
        if not fine:
            message = f"{path}: {problem}"
            raise SettingsError(message)


def _log(path: Path, lines: list[_Line], bad: list[BadRow], days: float) -> Log:
    timed = all(line.time_s is not None for line in lines)
    times_s: NDArray[np.float64] = _START_S + np.arange(len(lines), dtype=np.float64) * (days * _DAY_S / len(lines))
    if timed:
        lines = sorted(lines, key=lambda line: line.time_s or 0.0)
        times_s = np.array([line.time_s for line in lines], np.float64)
    return Log(
        path=path,
        texts=[line.text for line in lines],
        labels=[line.label for line in lines],
        gold=[line.gold for line in lines],
        ids=[line.id or f"line-{line.number}" for line in lines],
        times_s=times_s,
        timed=timed,
        skipped=len(bad),
        bad=bad,
    )


def _column(path: Path, rows: list[Mapping[str, Any]], name: str | None, usual: tuple[str, ...], flag: str) -> str:
    found = first_usable(rows, usual) if name is None else named(rows, name)
    if not rows or found is None:
        seen = ", ".join(sorted({str(key) for row in rows for key in row})[:20]) or "no JSON objects"
        what = f"name the column with {flag}" if name is None else f"{flag} {name}: no row has a text there"
        message = f"{path}: {what} (found: {seen})"
        raise SettingsError(message)
    return found


def _text(line: int, value: Any, column: str) -> str | BadRow:
    if isinstance(value, BadRow):
        return value
    if not isinstance(value, Mapping):
        return BadRow(line=line, why="not a JSON object")
    found = value_at(value, column)
    if not isinstance(found, str) or not found.strip():
        return BadRow(line=line, why=f"no text in {column}")
    return canonical_text(found)


def _id(row: Mapping[str, Any], column: str | None) -> str | None:
    names = (column,) if column is not None else ID_COLUMNS
    found = (value_at(row, name) for name in names)
    return next((str(value) for value in found if isinstance(value, str | int) and value != ""), None)


def _answer(row: Mapping[str, Any], column: str | None) -> str | None:
    found = value_at(row, column) if column is not None else None
    return found.strip() if isinstance(found, str) and found.strip() else None
