"""Reading a log of JSON lines: rows, columns by name or guess, labels and times. What is wrong with a row is data."""

import codecs
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from store.errors import SettingsError
from store.event import MAX_EVENT_BYTES

ID_COLUMNS: Final = ("id", "event_id", "uuid")
TIME_COLUMNS: Final = ("time", "timestamp", "created_at", "created")
READABLE_TIMES: Final = "Unix seconds or milliseconds, or ISO 8601 with its zone"
_MAX_LINE_BYTES: Final = MAX_EVENT_BYTES
_SHOWN_COLUMNS: Final = 20
_EXACT_BELOW: Final = 2.0**53  # where a float is one whole number alone
_MILLISECONDS_FROM: Final = 1e11  # seconds would be the year 5138, milliseconds are 1973
_MILLISECONDS_BELOW: Final = 1e14


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that was skipped, and why. It quotes nothing of the row."""

    line: int
    why: str


def count_lines(path: Path) -> int:
    """How many lines the file has, for a progress bar."""
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line that is not empty; a bad line's value is a BadRow.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            line = 0
            while raw := file.readline(_MAX_LINE_BYTES):
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


def text_of(value: Any) -> str | None:
    """A value as a text; None: it is none, or blank."""
    return value if isinstance(value, str) and value.strip() else None


def label_of(value: Any) -> str | None:
    """A value as a label: a text without the blanks around it, or as JSON spells a whole number, true or false.

    4.0 is the label 4. None: it is nothing of these.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_BELOW:
        value = int(value)
    if isinstance(value, int):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """A column that is looked for."""

    flag: str  # that names it
    what: str  # it holds, for a person
    names: tuple[str, ...]  # that it may have, the likeliest first
    read: Callable[[Any], str | None]  # None: a value of no use
    in_most_rows: bool = False  # a row without it is a bad one
    named: bool = False  # by the user: names has one alone

    def called(self, name: str | None) -> "Sought":
        """The same with the name that the user gave; None: none."""
        return self if name is None else replace(self, names=(name,), named=True)


TEXT: Final = Sought(
    flag="--text",
    what="text",
    names=("text", "input", "query", "question", "prompt", "request", "utterance"),
    read=text_of,
    in_most_rows=True,
)
LABEL: Final = Sought(
    flag="--label",
    what="label (a text, a whole number, true or false)",
    names=("teacher.label", "label", "answer", "teacher", "intent", "category", "response"),
    read=label_of,
)


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What the rows have under one name."""

    there: int = 0  # rows with anything but null and blanks
    usable: int = 0
    one: str | None = None  # of the usable values
    differ: bool = False  # there is another

    def add(self, value: Any, usable: str | None) -> None:
        """Count a row's value."""
        self.there += not _missing(value)
        if usable is not None:
            self.usable += 1
            self.differ = self.differ or usable != (self.one or usable)
            self.one = usable


class Survey:
    """Which columns a file has, by all of its rows."""

    def __init__(self, path: Path, *sought: Sought) -> None:
        """Read the file once, and keep counts alone.

        Raises:
            SettingsError: the file cannot be read.
        """
        self._path = path
        self._rows = 0
        self._seen: set[str] = set()
        self._tallies = {(one.flag, name): _Tally() for one in sought for name in one.names}
        for _, row in json_rows(path):
            if isinstance(row, Mapping):
                self._add(row, sought)

    def found(self, sought: Sought) -> str | None:
        """The column's name; None: it cannot be told, or nothing of use is under the name that the user gave.

        It is the first name under which most of what is there is of use; a value that is missing counts against none.
        First come names with a text in most rows, or with two labels at least.
        """
        tallies = {name: self._tallies[sought.flag, name] for name in sought.names}
        if sought.named:
            return next((name for name, tally in tallies.items() if tally.usable), None)
        mostly = {name: tally for name, tally in tallies.items() if 2 * tally.usable > tally.there}
        likely = [
            name
            for name, tally in mostly.items()
            if (2 * tally.usable > self._rows if sought.in_most_rows else tally.differ)
        ]
        return next(iter([*likely, *mostly]), None)

    def needed(self, sought: Sought) -> str:
        """The column's name.

        Raises:
            SettingsError: there is none: a misspelt one must not end as a file of bad rows. It names the flag.
        """
        found = self.found(sought)
        if found is not None:
            return found
        seen = ", ".join(sorted(self._seen)[:_SHOWN_COLUMNS]) or "no JSON objects"
        what = f"no {sought.what} under any usual name: name the column with {sought.flag}"
        if sought.named:
            what = f"{sought.flag} {sought.names[0]}: no row has a {sought.what} there"
        message = f"{self._path}: {what} (found: {seen})"
        raise SettingsError(message)

    def _add(self, row: Mapping[str, Any], sought: tuple[Sought, ...]) -> None:
        self._rows += 1
        if len(self._seen) < _SHOWN_COLUMNS:
            self._seen.update(map(str, row))
        for one in sought:
            for name in one.names:
                value = value_at(row, name)
                if value is not None:
                    self._tallies[one.flag, name].add(value, one.read(value))


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
    """The row's event time, Unix seconds, where it has one that can be read.

    Numbers are Unix seconds, from 1e11 (below 1e14) milliseconds; texts are ISO 8601 with a zone.
    """
    for name in names:
        value = value_at(row, name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MILLISECONDS_BELOW:
            return float(value) if value < _MILLISECONDS_FROM else value / 1000.0
        if isinstance(value, str):
            try:
                read = datetime.fromisoformat(value)
            except ValueError:
                continue
            if read.tzinfo is not None:
                return read.timestamp()
    return None


def time_column(row: Mapping[str, Any], names: tuple[str, ...] = TIME_COLUMNS) -> str | None:
    """The first of the names under which the row has anything, a time or not."""
    return next((name for name in names if not _missing(value_at(row, name))), None)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
