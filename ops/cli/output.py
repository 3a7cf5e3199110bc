"""What the CLI prints: tables for people, one JSON value for programs, and the meaning of each exit code."""

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import typer

from ops.show import columns as layout
from store.errors import (
    AlreadyRunningError,
    BadSignatureError,
    BrokenChainError,
    CorruptItemError,
    CorruptVersionError,
    LogUnavailableError,
    MoveConflictError,
    PositionOutsideLogError,
    SettingsError,
    StateUnwritableError,
    StoreUnavailableError,
    UnderstudyError,
    UnknownVersionError,
)

OK: Final = 0
FAILED_CHECK: Final = 1
BAD_SETTINGS: Final = 2
UNAVAILABLE: Final = 3
REFUSED: Final = 4
EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 a check failed (a mismatch, a damaged version, a move that no gateway followed, an import"
    " without one good row, a crashing child); 2 bad settings or usage; 3 Redis, Kafka or a process did not answer;"
    " 4 refused, declined by the gate, or in conflict with somebody else's move."
)


class RefusedError(UnderstudyError):
    """What was asked for makes no sense as things stand; the message says why."""


_CODES: Final[tuple[tuple[type[UnderstudyError], int], ...]] = (
    (SettingsError, BAD_SETTINGS),
    (UnknownVersionError, BAD_SETTINGS),
    (StateUnwritableError, UNAVAILABLE),
    (StoreUnavailableError, UNAVAILABLE),
    (LogUnavailableError, UNAVAILABLE),
    (RefusedError, REFUSED),
    (MoveConflictError, REFUSED),
    (AlreadyRunningError, REFUSED),
    (CorruptVersionError, FAILED_CHECK),
    (BadSignatureError, FAILED_CHECK),
    (BrokenChainError, FAILED_CHECK),
    (CorruptItemError, FAILED_CHECK),
    (PositionOutsideLogError, FAILED_CHECK),
)


def exit_code_of(error: UnderstudyError) -> int:
    """The exit code for an error that ends a command."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED_CHECK)


class Format(StrEnum):
    """How a command prints its result."""

    table = "table"
    json = "json"


def emit_json(value: Any) -> None:
    """Print one JSON value and nothing else."""
    import msgspec  # noqa: PLC0415 - the list of commands is shown without

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()


def emit_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table that fits the terminal (80 columns where there is none); cells are shown as they are."""
    width = _emit_title(title)
    head, lines = layout.table(columns, [[_shown(cell) for cell in row] for row in rows], width)
    _emit_lines(typer.style(line, bold=True) for line in head)
    _emit_lines(lines)


def emit_fields(fields: Mapping[str, object], *, title: str | None = None) -> None:
    """Print names and values, one a line."""
    width = _emit_title(title)
    _emit_lines(layout.fields([(name, _shown(value)) for name, value in fields.items()], width))


def emit_error(error: UnderstudyError) -> None:
    """Say on standard error why a command ended."""
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(str(error), err=True)


def time_of(unix_s: float) -> str:
    """A time for people, UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def ratio_of(value: float | None) -> str:
    """A ratio for people."""
    return "-" if value is None else f"{value:.1%}"


def _emit_title(title: str | None) -> int:
    width = shutil.get_terminal_size().columns
    _emit_lines(layout.wrapped(layout.printable(title), width) if title else [])
    return width


def _emit_lines(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def _shown(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return str(cell)
