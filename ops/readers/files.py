"""A file's rows: JSON lines, a JSON array, pretty JSON or CSV, told apart by what is in them. A bad row is data."""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from ops.readers.shapes import begins_whole, row_of, rows_in
from ops.readers.streams import HEAD_BYTES, open_log
from ops.readers.traces.spans import BATCH, rows_within
from store.errors import SettingsError
from store.event import MAX_EVENT_BYTES

_MAX_LINE_BYTES: Final = MAX_EVENT_BYTES
_MOST_BATCH_BYTES: Final = 256 << 20  # of a line of spans
_MOST_WHOLE_BYTES: Final = 1 << 30  # of a document that is read at once
_TRIED_LINES: Final = 200
_DELIMITERS: Final = ",\t;|"
_PYTHON: Final = re.compile(rb"[\s\[]*\{\s*'")
_MARK: Final = b"\xef\xbb\xbf"
_NOTHING: Final = b" \t\r\n\0\x1a"  # a line that a crash left behind, or that ends a file of DOS
_MOST_DIGITS: Final = 4000

Rows = Iterator[tuple[int, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that was skipped, and why. It quotes nothing of the row."""

    line: int
    why: str


def look(path: Path) -> None:
    """See that a file can be read as a log, by its first bytes.

    Raises:
        SettingsError: it is not there, empty, or something else; the message says what it looks like.
    """
    with open_log(path) as (_, head):
        _kind(path, head)


def count_lines(path: Path) -> int:
    """How many line ends the file has, for a progress bar."""
    with open_log(path) as (stream, _):
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))


def rows_of(path: Path) -> Rows:
    """(line number, value) of each row; a bad row's value is a BadRow. Blank lines are none.

    The number is that of the line where the row begins; in a document on one line it is the row's place in it.

    Raises:
        SettingsError: the file cannot be read, or it is something else.
    """
    with open_log(path) as (stream, head):
        kind = _kind(path, head)
        if kind == "lines":
            found = _lines(stream)
        elif kind == "document":
            found = _document(path, stream)
        else:
            found = _table(stream, kind)
        for line, value in found:
            for row in rows_within(value):
                yield line, row


def _kind(path: Path, head: bytes) -> str:
    """`lines`, `document`, or the delimiter of a table."""
    start = head.lstrip()
    if not start:
        if len(head) < HEAD_BYTES:
            message = f"{path} is empty"
            raise SettingsError(message)
        return "lines"
    lines = [line for line in head.split(b"\n")[:_TRIED_LINES] if line.strip()]
    if _PYTHON.match(head):
        message = f"{path} is in Python's own spelling, with single quotes: write it with json.dumps, a row a line"
        raise SettingsError(message)
    if start[:1] == b"[" or (start[:1] == b"{" and len(lines) == 1 and begins_whole(_decoded(0, lines[0]), lines[0])):
        return "document"
    if any(isinstance(_decoded(0, line), dict) for line in lines):
        return "lines"
    if start[:1] == b'"' and all(isinstance(_decoded(0, line), str) for line in lines[: len(lines) - 1 or 1]):
        return "lines"  # of texts alone
    if start[:1] == b"{":
        return "document" if _begins_document(head) else "lines"
    delimiter = _delimiter(head)
    if delimiter is None:
        message = f"{path} looks like plain text: neither JSON nor a table with a line of column names"
        raise SettingsError(message)
    return delimiter


def _begins_document(head: bytes) -> bool:
    """Whether an object begins here that goes on over its first line."""
    first, _, rest = head.lstrip().partition(b"\n")
    return bool(rest.strip()) and first.rstrip().endswith((b"{", b"[", b","))


def _delimiter(head: bytes) -> str | None:
    """What separates the columns of a table; None: it is none."""
    text = head.decode("utf-8", "replace")
    text = text[: text.rfind("\n") + 1] or text
    first = text.lstrip("\n").partition("\n")[0]
    if first.lower().startswith("sep=") and len(first.strip()) == len("sep=,"):
        return first.strip()[-1]
    best = max(_DELIMITERS, key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=best, skipinitialspace=True) if row]
    except csv.Error:
        return None
    is_cut = len(head) >= HEAD_BYTES and len(rows) == 1  # in the middle of the first row
    if not first.count(best) or not (len(rows) > 1 or is_cut):
        return None
    names, widths = [name.strip() for name in rows[0]], [len(row) for row in rows[1:_TRIED_LINES]]
    fitting = sum(width == len(names) for width in widths)
    named = sum(map(bool, names))
    return best if named > 1 and named + 1 >= len(names) and (is_cut or 2 * fitting > len(widths)) else None


def _lines(stream: io.BufferedReader) -> Rows:
    line = 0
    while raw := stream.readline(_MAX_LINE_BYTES):
        line += 1
        if _goes_on(raw) and raw.startswith(BATCH):
            raw += stream.readline(_MOST_BATCH_BYTES)
        elif _goes_on(raw):
            while (more := stream.readline(_MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                pass
            yield line, BadRow(line=line, why=f"longer than {_MAX_LINE_BYTES} bytes")
            continue
        if raw.strip(_NOTHING):
            for part in _parted(line, raw):
                yield line, row_of(_decoded(line, part))


def _goes_on(raw: bytes) -> bool:
    return len(raw) == _MAX_LINE_BYTES and not raw.endswith(b"\n")


def _parted(line: int, raw: bytes) -> list[bytes]:
    """The line, or its rows where some of a file's lines end as those of an old Mac: no JSON holds a bare return."""
    parts = [part for part in raw.split(b"\r") if part.strip(_NOTHING)]
    is_cut = len(parts) > 1 and isinstance(_decoded(line, raw), BadRow)
    return parts if is_cut and all(isinstance(_decoded(line, part), dict) for part in parts) else [raw]


def _decoded(line: int, raw: bytes) -> Any:
    """One line's value; NaN, Infinity and broken Unicode are there for whoever reads the column."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    while raw.startswith(_MARK):  # of files that were put one behind another
        raw = raw.removeprefix(_MARK)
    try:
        return _WIDE.decode(raw.decode("utf-8", "surrogateescape").strip(" \t\r\n\x1e").removesuffix(","))
    except (ValueError, RecursionError):
        return BadRow(line=line, why="not JSON in UTF-8")


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) < _MOST_DIGITS else None


_WIDE: Final = json.JSONDecoder(strict=False, parse_int=_whole)


def _document(path: Path, stream: io.BufferedReader) -> Rows:
    """The entries of an array, or of objects one after another, each over several lines."""
    raw = stream.read(_MOST_WHOLE_BYTES + 1)
    if len(raw) > _MOST_WHOLE_BYTES:
        message = (
            f"{path} is one JSON document of more than {_MOST_WHOLE_BYTES >> 20} MiB: make it JSON lines (jq -c .[])"
        )
        raise SettingsError(message)
    text = raw.decode("utf-8", "surrogateescape")
    on_one_line = text.count("\n") < 2  # noqa: PLR2004 - one row a line has more
    line, counted, place = 1, 0, 0
    for start, value in _values(text):
        line, counted, place = line + text.count("\n", counted, start), start, place + 1
        number = place if on_one_line else line
        if isinstance(value, BadRow):
            yield number, BadRow(line=number, why=value.why)
            return
        for nested in rows_in(value):
            yield number, nested


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """Each value with the place where it begins: the entries of arrays, and objects. What cannot be read ends it."""
    place, end = 0, len(text)
    while True:
        while place < end and text[place] in " \t\r\n,[]":
            place += 1
        if place >= end:
            return
        try:
            value, after = _WIDE.raw_decode(text, place)
        except (ValueError, RecursionError):
            yield place, BadRow(line=0, why="not JSON from here on")
            return
        yield place, value
        place = after


def _table(stream: io.BufferedReader, delimiter: str) -> Rows:
    """A table's rows as objects; a name is there in small letters, too."""
    text = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")
    csv.field_size_limit(_MAX_LINE_BYTES)
    try:
        yield from _rows(csv.reader(text, delimiter=delimiter, skipinitialspace=True))
    finally:
        text.detach()  # whoever opened the stream closes it


def _rows(reader: Any) -> Rows:
    names: list[str] | None = None
    before = 0
    while True:
        line = before + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            before = reader.line_num
            yield line, BadRow(line=line, why=f"not a row of a table: {error}")
            continue
        before = reader.line_num
        if row is None:
            return
        if not row or (names is None and ",".join(row).lower().startswith("sep=")):
            continue
        if names is None:
            names = _names(row)
        elif len(row) != len(names):
            yield line, BadRow(line=line, why=f"{len(row)} columns, the first line names {len(names)}")
        else:
            small = {name.lower(): value for name, value in zip(names, row, strict=True)}
            yield line, small | dict(zip(names, row, strict=True))


def _names(row: list[str]) -> list[str]:
    """The names of a table's columns: one without a name (an index, a comma at the end) has its place for one."""
    names: list[str] = []
    for place, name in enumerate(map(str.strip, row), 1):
        again = sum(name == one or one.startswith(f"{name}.") for one in names)
        names.append(f"column {place}" if not name else f"{name}.{again}" if name in names else name)
    return names
