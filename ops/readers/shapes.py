"""The rows of a JSON document, in the shapes that exports and data frames are written in."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_ROWS_UNDER: Final = (
    *("data", "rows", "items", "records", "results", "examples", "traces", "observations"),
    *("hits", "logs", "entries", "events", "documents", "samples", "instances", "train"),
)
_CUT: Final = re.compile(  # how a document begins that is one line, and longer than what is looked at
    rb"""\s*\{.{0,2000}?"(?:%s)"\s*:\s*[\[{]|\s*\{\s*"[^"]{1,100}"\s*:\s*(?:\[\s*"|\{\s*"0"\s*:)|\s*\{\s*"0"\s*:\s*\{|[^\n]*\}\s*\{"""
    % "|".join(_ROWS_UNDER).encode(),
    re.DOTALL,
)


def opened(value: Any) -> Any:
    """A value that may be JSON inside of a string, as tables hold it."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return msgspec.json.decode(value)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return value
    return value


def begins_whole(value: Any, line: bytes) -> bool:
    """Whether a file's only line is a document of many rows, and not one row.

    Args:
        value: what it is; no object where it is longer than what was looked at, or several objects.
        line: its beginning.
    """
    if isinstance(value, Mapping):
        rows = rows_in(value)
        return len(rows) > 1 or (len(rows) == 1 and rows[0] is not value)
    return _CUT.match(line) is not None


def rows_in(value: Any) -> list[Any]:
    """The rows of an export that wraps them in one object, or of a data frame; else the value itself."""
    if not isinstance(value, Mapping):
        return [value]
    for name in _ROWS_UNDER:
        found = value.get(name)
        if isinstance(found, Mapping) and name in found:  # as of a search: hits.hits
            found = found[name]
        if isinstance(found, list) and found and all(isinstance(row, Mapping) for row in found):
            return [row_of(row) for row in found]
    return _of_frame(value) or [row_of(value)]


def row_of(value: Any) -> Any:
    """What a search's hit or an entry of a data set's viewer stands around; else the value itself."""
    if isinstance(value, Mapping):
        for name, beside in (("_source", "_id"), ("row", "row_idx")):
            if isinstance(value.get(name), Mapping) and beside in value:
                return value[name]
    return value


def _of_frame(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A data frame's rows, however it is oriented; none: it is no frame."""
    names, data = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [dict(zip(map(str, names), row, strict=False)) for row in data]
    inner = list(value.values())
    if len(value) > 1 and all(isinstance(one, list) and len(one) == len(inner[0]) > 1 for one in inner):
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)] if _are_flat(inner) else []
    if not inner or not all(isinstance(one, Mapping) and one.keys() == inner[0].keys() for one in inner):
        return []
    if all(name.isdecimal() for name in value):
        return inner
    if len(value) > 1 and inner[0] and all(place.isdecimal() for place in inner[0]):
        return [{name: column[place] for name, column in value.items()} for place in inner[0]]
    return []


def _are_flat(columns: list[list[Any]]) -> bool:
    return not any(isinstance(entry, Mapping) for column in columns for entry in column[:2])
