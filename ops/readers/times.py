"""When a row was: Unix time, or ISO 8601 or RFC 2822 with its zone; else what is wrong with what it says."""

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, NamedTuple

from ops.readers.columns import is_missing, value_at

TIME_COLUMNS: Final = (
    *("time", "timestamp", "created_at", "created", "createdAt", "startTime", "start_time", "request_created_at"),
    *("response.created", "response.body.created"),
)
READABLE_TIMES: Final = "Unix seconds, milli-, micro- or nanoseconds, or ISO 8601 or RFC 2822 with its zone"
_SECONDS_FROM: Final = 1e8  # 1973
_NANOSECONDS_BELOW: Final = 1e20
_UNITS: Final = (  # below the first so many are a second; seconds would be the year 5138, the others are 1973
    (1e11, 1e0),
    (1e14, 1e3),
    (1e17, 1e6),
    (_NANOSECONDS_BELOW, 1e9),
)
_FIRST_S: Final = -62_135_596_800.0  # the year 1, UTC
_LAST_S: Final = 253_402_300_799.0  # the end of the year 9999
_NUMBER: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE]\+?[0-9]{1,2})?")
_YEAR: Final = re.compile(r"(?:[+-]?\d{5,9}|-\d{4}|0000)-\d\d(?:-\d\d)?(?:[ Tt].*)?")  # that no calendar here has
_MINUS: Final = "\u2212"
_LIKE_ISO: Final = re.compile(
    r"(\d{4}[-/]\d\d[-/]\d\d)[ Tt](\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?) ?([+\-\u2212]\d\d(?::?\d\d)?)?"
    r" ?(UTC|GMT|Z|utc|gmt|z)?(?:\[[A-Za-z_/+-]{1,40}\])?"
)

TimeFault = Literal["none", "naive", "unreadable", "outside"]


class Moment(NamedTuple):
    """A row's event time."""

    time_s: float | None  # Unix seconds; None: there is a fault
    fault: TimeFault | None = None
    column: str | None = None  # where the row has anything that may be a time


def moment_of(row: Mapping[str, Any], names: tuple[str, ...] = TIME_COLUMNS) -> Moment:
    """The row's event time by the first column that has one that can be read, else what is wrong with the first."""
    first: Moment | None = None
    for name in names:
        value = value_at(row, name)
        if is_missing(value):
            continue
        time_s, fault = _read(value)
        found = Moment(time_s, fault, name)
        if fault is None or fault == "outside":
            return found
        first = first or found
    return first or Moment(None, "none")


def _read(value: Any) -> tuple[float | None, TimeFault | None]:
    if isinstance(value, Mapping) and len(value) == 1:  # as MongoDB exports it
        value = value.get("$date")
    if isinstance(value, str):
        return _of_number(float(value)) if _NUMBER.fullmatch(value.strip()) else _of_words(value.strip())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _of_number(float(value)) if abs(value) < _NANOSECONDS_BELOW else (None, "unreadable")
    return None, "unreadable"


def _of_number(value: float) -> tuple[float | None, TimeFault | None]:
    """Unix time by its size. Below 1973 it is a date as 20260101, a day of Excel, or a place in the file."""
    unit = next((unit for below, unit in _UNITS if value < below), None)
    if unit is None or not value >= _SECONDS_FROM:
        return None, "unreadable"
    return value / unit, None


def _of_words(value: str) -> tuple[float | None, TimeFault | None]:
    try:
        read = datetime.fromisoformat(_in_iso(value))
    except ValueError:
        try:
            read = parsedate_to_datetime(value)
        except (ValueError, IndexError, TypeError):
            return None, "outside" if _YEAR.fullmatch(value) else "unreadable"
    if read.tzinfo is None:
        return None, "naive"
    try:
        time_s = read.timestamp()
    except (ValueError, OverflowError):
        return None, "outside"
    return (time_s, None) if _FIRST_S <= time_s <= _LAST_S else (None, "outside")


def _in_iso(value: str) -> str:
    """ISO 8601 as databases and programs vary it: names of UTC, blanks before the zone, slashes, a zone's city."""
    if (found := _LIKE_ISO.fullmatch(value)) is None:
        return value
    date, clock, zone, named = found.groups()
    return f"{date.replace('/', '-')}T{clock}{(zone or ('+00:00' if named else '')).replace(_MINUS, '-')}"
