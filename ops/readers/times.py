"""When a row was: Unix seconds or milliseconds, or ISO 8601 with its zone; else what is wrong with what it says."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from ops.readers.columns import is_missing, value_at

TIME_COLUMNS: Final = (
    *("time", "timestamp", "created_at", "created", "startTime", "start_time"),
    *("response.created", "response.body.created"),
)
READABLE_TIMES: Final = "Unix seconds or milliseconds, or ISO 8601 with its zone"
_MILLISECONDS_FROM: Final = 1e11  # seconds would be the year 5138, milliseconds are 1973
_MILLISECONDS_BELOW: Final = 1e14
_FIRST_S: Final = -62_135_596_800.0  # the year 1, UTC
_LAST_S: Final = 253_402_300_799.0  # the end of the year 9999
_LONGEST_NUMBER: Final = 20  # characters

Fault = Literal["none", "naive", "unreadable", "outside"]


class Moment(NamedTuple):
    """A row's event time."""

    time_s: float | None  # Unix seconds; None: there is a fault
    fault: Fault | None = None
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


def _read(value: Any) -> tuple[float | None, Fault | None]:
    if isinstance(value, str):
        value = value.strip()
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            return _of_digits(value)
        if read.tzinfo is None and not value.isdigit():
            return None, "naive"
        if read.tzinfo is None:
            return _of_digits(value)
        time_s = read.timestamp()
        return (time_s, None) if _FIRST_S <= time_s <= _LAST_S else (None, "outside")
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MILLISECONDS_BELOW:
        return (float(value) if value < _MILLISECONDS_FROM else value / 1000.0), None
    return None, "unreadable"


def _of_digits(value: str) -> tuple[float | None, Fault | None]:
    """A number in quotes, as tables have it."""
    if len(value) > _LONGEST_NUMBER or not value.replace(".", "", 1).isdecimal() or not value.isascii():
        return None, "unreadable"
    return _read(float(value))
