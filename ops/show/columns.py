"""Words laid out for a terminal: a table where one fits, else a block a row; no word is cut without need."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

GAP: Final = 2  # cells between two columns
_TALLEST: Final = 4  # lines of a row; a table whose rows are taller is read better as blocks
_INDENT: Final = "  "
_AT_BLANKS: Final = re.compile(r"\S+")
_AT_SLASHES: Final = re.compile(r"[^\s/]*/+|[^\s/]+")  # what names are made of: tenant/use_case, folders
_AT_MARKS: Final = re.compile(r"[^\s/_.,:;=@-]*[/_.,:;=@-]+|[^\s/_.,:;=@-]+")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> tuple[list[str], list[str]]:
    """A table's head and its rows, in lines; no head but blocks of `column  value` where none has whole words.

    Args:
        columns: the head; a column may be without a name.
        rows: as many cells each as there are columns.
        width: of the terminal, in cells.
    """
    grid = [[printable(cell) for cell in row] for row in (columns, *rows)]
    for pieces in (_AT_BLANKS, _AT_SLASHES):
        widths = _widths(grid, width, pieces)
        if widths is None:
            continue
        tall = [[wrapped(cell, room) for cell, room in zip(row, widths, strict=True)] for row in grid]
        if max(len(lines) for row in tall for lines in row) <= _TALLEST:
            head, *body = (_beside(row, widths) for row in tall)
            return head, [line for lines in body for line in lines]
    blocks = [fields(list(zip(grid[0], row, strict=True)), width) for row in grid[1:]]
    return [], [line for at, block in enumerate(blocks) for line in ([""] if at else []) + block]


def fields(pairs: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Names and their values, one below the other; a value that is too long goes on below itself."""
    named = [(printable(name), printable(value)) for name, value in pairs]
    short = [cells(name) for name, _ in named if cells(name) + GAP <= width // 2]
    widths = [max(short, default=0), width - max(short, default=0) - GAP]
    lines: list[str] = []
    for name, value in named:
        if cells(name) <= widths[0]:
            lines += _beside([[name], wrapped(value, widths[1])], widths)
        else:  # below its name it has more room
            lines += [*wrapped(name, width), *(_INDENT + part for part in wrapped(value, width - len(_INDENT)))]
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """Text in lines of a width: broken at blanks, in a word that is wider behind a mark, in mid-letter if need be."""
    return [part for line in text.split("\n") for part in _filled(line, width)]


def cells(text: str) -> int:
    """How many cells a text takes on a terminal."""
    return sum(0 if unicodedata.combining(one) else 2 if _is_wide(one) else 1 for one in text)


def printable(text: str) -> str:
    """Text that can do nothing to a terminal: control characters are shown by their numbers."""
    return "".join(one if one.isprintable() or one == "\n" else " " if one.isspace() else _number(one) for one in text)


def _widths(grid: Sequence[Sequence[str]], width: int, pieces: re.Pattern[str]) -> list[int] | None:
    """What each column gets, at least its longest piece; None where that is more than there is."""
    by_column = list(zip(*grid, strict=True))
    least = [max(_longest(cell, pieces) for cell in column) for column in by_column]
    whole = [max(cells(line) for cell in column for line in cell.split("\n")) for column in by_column]
    spare = width - sum(least) - GAP * (len(least) - 1)
    if spare < 0:
        return None
    order = sorted(range(len(least)), key=lambda at: whole[at] - least[at])
    for rank, at in enumerate(order):
        more = min(whole[at] - least[at], spare // (len(order) - rank))
        least[at] += more
        spare -= more
    return least


def _longest(text: str, pieces: re.Pattern[str]) -> int:
    return max((cells(piece) for piece in pieces.findall(text)), default=0)


def _filled(line: str, width: int) -> list[str]:
    filled, room = [""], width
    for word in line.split():
        glue = " " if filled[-1] else ""
        for part in [word] if cells(glue + word) <= room else _cut(word, width):
            if cells(glue + part) > room or (glue and part != word):  # a word that must be cut has its own lines
                filled.append("")
                glue, room = "", width
            filled[-1] += glue + part
            room -= cells(glue + part)
            glue = ""
    return filled


def _cut(word: str, width: int) -> list[str]:
    """A word that is wider than a line in parts that are not: at slashes, else behind other marks, else anywhere."""
    if cells(word) <= width:
        return [word]
    for pieces in (_AT_SLASHES, _AT_MARKS):
        parts = pieces.findall(word)
        if len(parts) > 1:
            return [part for whole in parts for part in _cut(whole, width)]
    fits = next(at for at in range(len(word), 0, -1) if at == 1 or cells(word[:at]) <= width)
    return [word[:fits], *(_cut(word[fits:], width) if word[fits:] else [])]


def _beside(row: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Cells of one row, line by line."""
    lines = []
    for at in range(max(len(cell) for cell in row)):
        parts = [cell[at] if at < len(cell) else "" for cell in row]
        padded = (part + " " * (room - cells(part)) for part, room in zip(parts, widths, strict=True))
        lines.append((" " * GAP).join(padded).rstrip())
    return lines


def _is_wide(one: str) -> bool:
    return unicodedata.east_asian_width(one) in {"W", "F"}


def _number(one: str) -> str:
    return f"\\x{ord(one):02x}" if ord(one) < 0x100 else f"\\u{ord(one):04x}"  # noqa: PLR2004 - one byte
