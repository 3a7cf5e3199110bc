"""Reading a log of JSON lines: rows, columns by name or by guess, and times. What is wrong with a row is data."""

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from store.errors import SettingsError
from store.event import MAX_EVENT_BYTES

TEXT_COLUMNS: Final = ("text", "input", "query", "question", "prompt", "request", "utterance")
LABEL_COLUMNS: Final = ("teacher.label", "label", "answer", "teacher", "intent", "category", "response")
ID_COLUMNS: Final = ("id", "event_id", "uuid")
TIME_COLUMNS: Final = ("time", "timestamp", "created_at", "created")
PROBED: Final = 100  # rows by which columns are found
_MAX_LINE_BYTES: Final = MAX_EVENT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that was skipped, and why. It quotes nothing of the row."""

    line: int
    why: str


def count_lines(path: Path) -> int:
    """How many lines the file has, for a progress bar."""
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def json_rows(path: Path, *, limit: int | None = None) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line that is not empty; a bad line's value is a BadRow.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            line = 0
            while (raw := file.readline(_MAX_LINE_BYTES)) and line != limit:
                line += 1
                if len(raw) == _MAX_LINE_BYTES and not raw.endswith(b"\n"):
                    _skip_to_end_of_line(file)
                    yield line, BadRow(line=line, why=f"longer than {_MAX_LINE_BYTES} bytes")
                elif raw.strip():
                    yield line, _decoded(line, raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw)
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise SettingsError(message) from error


def _skip_to_end_of_line(file: BinaryIO) -> None:
    while (more := file.readline(_MAX_LINE_BYTES)) and not more.endswith(b"\n"):
        pass


def _decoded(line: int, raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return BadRow(line=line, why="not JSON in UTF-8")


def first_usable(rows: list[Mapping[str, Any]], names: tuple[str, ...]) -> str | None:
    """The first of the names under which most rows have a text."""
    return next(
        (name for name in names if 2 * sum(isinstance(value_at(row, name), str) for row in rows) > len(rows)), None
    )


def named(rows: list[Mapping[str, Any]], name: str) -> str | None:
    """The name, if any row has a text under it: a misspelt one must not end as a file of bad rows."""
    return name if any(isinstance(value_at(row, name), str) for row in rows) else None


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value at a column: its own name first, else along the dots."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def event_time_s(row: Mapping[str, Any], names: tuple[str, ...] = TIME_COLUMNS) -> float | None:
    """The row's event time, Unix seconds, where it has one that can be read."""
    for name in names:
        value = value_at(row, name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11:  # noqa: PLR2004
            return float(value)
        if isinstance(value, str):
            try:
                read = datetime.fromisoformat(value)
            except ValueError:
                continue
            if read.tzinfo is not None:
                return read.timestamp()
    return None
