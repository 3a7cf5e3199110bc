"""A user's own log as a backtest reads it: texts, the teacher's recorded answers and, if there are any, true labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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
    gold = columns.gold if columns.gold is not None else first_usable(probed, GOLD_COLUMNS) if probed else None
    for flag, name in (("--gold", columns.gold), ("--id", columns.id), ("--time", columns.time)):
        if name is not None and all(value_at(row, name) is None for row in probed):
            message = f"{path}: no row has the column {name} that {flag} names"
            raise SettingsError(message)
    if gold == label:
        gold = None
    id_names = (columns.id,) if columns.id is not None else ID_COLUMNS
    time_names = (columns.time,) if columns.time is not None else TIME_COLUMNS
    bad: list[BadRow] = []
    rows: list[tuple[float | None, str, str, str | None, str | None]] = []
    for line, value in json_rows(path):
        found = _row(line, value, text)
        if isinstance(found, BadRow):
            bad.append(found)
            continue
        name = next((str(value_at(value, key)) for key in id_names if value_at(value, key) is not None), f"line-{line}")
        rows.append(
            (
                event_time_s(value, time_names),
                name,
                found,
                _answer(value, label),
                _answer(value, gold) if gold else None,
            )
        )
    if not rows:
        message = f"{path}: none of its {len(bad)} rows has a text under {text}"
        raise SettingsError(message)
    return _log(path, rows, bad, days)


def _log(
    path: Path, rows: list[tuple[float | None, str, str, str | None, str | None]], bad: list[BadRow], days: float
) -> Log:
    timed = all(row[0] is not None for row in rows)
    times_s: NDArray[np.float64] = _START_S + np.arange(len(rows), dtype=np.float64) * (days * _DAY_S / len(rows))
    if timed:
        rows = sorted(rows, key=lambda row: row[0] or 0.0)
        times_s = np.array([row[0] for row in rows], np.float64)
    if len({row[3] for row in rows} - {None}) < 2:  # noqa: PLR2004 - two classes at least
        message = f"{path}: the teacher's answers hold fewer than two labels: there is nothing to learn"
        raise SettingsError(message)
    return Log(
        path=path,
        texts=[row[2] for row in rows],
        labels=[row[3] for row in rows],
        gold=[row[4] for row in rows],
        ids=[row[1] for row in rows],
        times_s=times_s,
        timed=timed,
        skipped=len(bad),
        bad=bad,
    )


def _column(path: Path, rows: list[Mapping[str, Any]], name: str | None, usual: tuple[str, ...], flag: str) -> str:
    found = first_usable(rows, usual) if name is None else named(rows, name)
    if not rows or found is None:
        seen = ", ".join(sorted({str(key) for row in rows for key in row})[:20]) or "no JSON objects"
        message = f"{path}: name the column with {flag} (found: {seen})"
        raise SettingsError(message)
    return found


def _row(line: int, value: Any, text: str) -> str | BadRow:
    if isinstance(value, BadRow):
        return value
    if not isinstance(value, Mapping):
        return BadRow(line=line, why="not a JSON object")
    found = value_at(value, text)
    if not isinstance(found, str) or not found.strip():
        return BadRow(line=line, why=f"no text in {text}")
    return canonical_text(found)


def _answer(row: Mapping[str, Any], column: str) -> str | None:
    found = value_at(row, column)
    return found.strip() if isinstance(found, str) and found.strip() else None
