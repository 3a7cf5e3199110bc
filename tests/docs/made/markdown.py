"""Pieces of Markdown that the generated pages share."""

import re
from collections.abc import Iterable, Sequence


def head(title: str, source: str, *paragraphs: str) -> list[str]:
    """A page's beginning: its title, where it comes from, and what it is about."""
    note = f"<!-- Made by `make docs` from {source}: edit that, not this page. -->"
    return [f"# {title}", "", note, *(line for paragraph in paragraphs for line in ("", paragraph)), ""]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table, and an empty line after it."""
    return [row(header), row(["---"] * len(header)), *map(row, rows), ""]


def row(cells: Sequence[str]) -> str:
    """One line of a table; what would end a cell early is escaped."""
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", one_line(text).replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def one_line(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


def page(lines: Iterable[str]) -> str:
    """The page as a file holds it: one line break at its end."""
    return "\n".join(lines).rstrip("\n") + "\n"
