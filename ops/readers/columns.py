"""A row's columns: by name, along dots and places in lists, or by guess over the whole file; its text and its label."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ops.readers.chats import answer_of, question_of
from ops.readers.files import rows_of
from store.errors import SettingsError

ID_COLUMNS: Final = ("id", "event_id", "uuid", "custom_id")
_SHOWN_COLUMNS: Final = 20
_EXACT_BELOW: Final = 2.0**53  # where a float is one whole number alone
_PARTS: Final = re.compile(r"\[(-?\d+)\]|([^.\[\]]+)")


def text_of(value: Any) -> str | None:
    """A value as a text, of a chat the user's last turn; None: it is none, blank, or no valid Unicode."""
    text = question_of(value)
    if text is None and isinstance(value, str):
        text = value
    return text if text is not None and text.strip() and _is_unicode(text) else None


def label_of(value: Any) -> str | None:
    """A value as a label: a text without the blanks around it, or as JSON spells a whole number, true or false.

    4.0 is the label 4; of a chat it is what the assistant said last. None: it is nothing of these.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_BELOW:
        value = int(value)
    if isinstance(value, int):
        return str(value)
    text = answer_of(value)
    if text is None and isinstance(value, str):
        text = value
    return text.strip() or None if text is not None and _is_unicode(text) else None


def nothing_in(column: str, value: Any, what: str) -> str:
    """Why a row is bad that has no text or label in a column."""
    if isinstance(value, str) and not _is_unicode(value):
        return f"{column} is not in UTF-8"
    return f"no {what} in {column}"


def id_of(row: Mapping[str, Any], names: Sequence[str] = ID_COLUMNS) -> str | None:
    """The row's own id; an empty one is none."""
    found = (value_at(row, name) for name in names)
    return next(
        (
            str(value)
            for value in found
            if isinstance(value, str | int) and not isinstance(value, bool) and not is_missing(value)
        ),
        None,
    )


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


Unfolded = Callable[[Mapping[str, Any]], Mapping[str, Any]]


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
    names=(
        *("text", "input", "query", "question", "prompt", "request", "utterance", "messages", "conversations", "body"),
        *("user_input", "inputs", "request_body", "requestBody", "proxy_server_request", "params", "contents"),
        *("sentence", "message", "content", "instruction", "attributes.input", "attributes.input.value"),
    ),
    read=text_of,
    in_most_rows=True,
)
LABEL: Final = Sought(
    flag="--label",
    what="label (a text, a whole number, true or false)",
    names=(
        *("teacher.label", "label", "answer", "teacher", "intent", "category", "response", "completion", "output"),
        *("outputs", "response_body", "responseBody", "result", "messages", "conversations", "choices", "contents"),
        *("attributes.output", "attributes.output.value"),
    ),
    read=label_of,
)


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What the rows have under one name."""

    there: int = 0  # rows with anything but null and blanks
    usable: int = 0
    garbled: int = 0  # texts that are no valid Unicode
    one: str | None = None  # of the usable values
    differ: bool = False  # there is another
    chats: int = 0  # usable values out of a chat's or a completion's structure, which nothing else has

    def add(self, value: Any, usable: str | None) -> None:
        """Count a row's value."""
        self.there += not is_missing(value)
        self.garbled += usable is None and isinstance(value, str) and not _is_unicode(value)
        if usable is not None:
            self.usable += 1
            self.chats += isinstance(value, Mapping | list)
            self.differ = self.differ or usable != (self.one or usable)
            self.one = usable


class Survey:
    """Which columns a file has, by all of its rows."""

    def __init__(self, path: Path, *sought: Sought, unfolded: Unfolded = lambda row: row) -> None:
        """Read the file once, and keep counts alone.

        Args:
            path: the file.
            sought: what is looked for.
            unfolded: makes a row of what stands in the file.

        Raises:
            SettingsError: the file cannot be read.
        """
        self._path = path
        self._rows = 0
        self._seen: set[str] = set()
        self._tallies = {(one.flag, name): _Tally() for one in sought for name in one.names}
        for _, row in rows_of(path):
            if isinstance(row, Mapping):
                self._add(unfolded(row), sought)

    def found(self, sought: Sought) -> str | None:
        """The column's name; None: it cannot be told, or nothing of use is under the name that the user gave.

        It is the first name under which most of what is there is of use; a value that is missing counts against none.
        First come names with a text in most rows, or with two labels at least, and last those with a chat in a few: on
        a bad day most calls have no answer.
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
        return next(iter([*likely, *mostly, *(name for name, tally in tallies.items() if tally.chats)]), None)

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
        if any(self._tallies[sought.flag, name].garbled for name in sought.names):
            what = (
                f"the {sought.what} is not in UTF-8: Latin-1 or Windows-1252, perhaps: iconv -f WINDOWS-1252 -t UTF-8"
                " makes it UTF-8"
            )
        elif "custom_id" in self._seen:
            what = "it has one half of a batch alone: join the batch's input and its output by custom_id, a row each"
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
    """The value at a column: its own name first, else along the dots; a number is a place in a list, -1 its last."""
    if path in row:
        return row[path]
    value: Any = row
    for part in _parts(path):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.removeprefix("-").isdecimal() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


@lru_cache(maxsize=256)
def _parts(path: str) -> tuple[str, ...]:
    """`choices[0].message` as choices, 0, message."""
    return tuple(place or name for place, name in _PARTS.findall(path))


def is_missing(value: Any) -> bool:
    """Whether a value is null or blank."""
    return value is None or (isinstance(value, str) and not value.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where a row keeps its text and the teacher's label; a dot goes into an object."""

    text: str
    label: str


def find_columns(path: Path, *, text: str | None, label: str | None) -> Columns:
    """The columns that hold text and label, by all rows unless they are named.

    Raises:
        SettingsError: they cannot be told, or no row has the named one; the message names the flag.
    """
    texts, labels = TEXT.called(text), LABEL.called(label)
    survey = Survey(path, texts, labels)
    return Columns(text=survey.needed(texts), label=survey.needed(labels))
