"""What the CLI prints: tables for people, one JSON value for programs, and the meaning of each exit code."""

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import typer

from ops.show import columns as layout
from store.errors import UnderstudyError


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
