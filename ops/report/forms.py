"""The forms of a page: HTML, one file that asks nothing of the network, and Markdown."""

import re
from collections.abc import Sequence
from html import escape
from typing import Final

from ops.report.page import Page, Section
from ops.show.markup import document, note, table, tile

_MARKED: Final = re.compile(r"([\\`*_\[\]<>|#])")


def html(page: Page) -> str:
    """The page as HTML; everything that came from outside is escaped."""
    kicker = f'<p class="kicker">{escape(page.kicker)}</p>'
    body = [f"<header>{kicker}<h1>{escape(page.title)}</h1><p>{escape(page.lead)}</p></header>"]
    body += [_section(one) for one in page.sections]
    body.append(f"<footer>{escape(page.footer)}</footer>")
    return document(f"Understudy: {page.title}", "\n".join(body))


def _section(section: Section) -> str:
    kind = ' class="lane"' if section.level == 1 else ""
    parts = [f"<h{section.level}{kind}>{escape(section.title)}</h{section.level}>"]
    parts.append(note("To be read first.", section.warnings))
    if section.tiles:
        parts.append(f'<div class="tiles">{"".join(tile(value, told) for value, told in section.tiles)}</div>')
    parts += [f"<p>{escape(one)}</p>" for one in section.sentences]
    if section.chart is not None:
        parts.append(f'<div class="card"><p>{escape(section.chart.label)}</p>{section.chart.svg()}</div>')
    if section.rows:
        cells = [[escape(cell) for cell in row] for row in section.rows]
        parts.append(f"<div>{table(section.head, cells, numbers=section.numbers)}</div>")
    return "".join(parts)


def markdown(page: Page) -> str:
    """The page as Markdown; what came from outside means nothing in it."""
    blocks = [f"# {_plain(page.title)}", _plain(page.kicker), _plain(page.lead)]
    for section in page.sections:
        blocks.append(f"{'#' * (section.level + 1)} {_plain(section.title)}")
        blocks += [f"> {_plain(one)}" for one in section.warnings]
        blocks.append("\n".join(f"- **{_plain(value)}** {_plain(told)}" for value, told in section.tiles))
        blocks.append("\n".join(f"- {_plain(one)}" for one in section.sentences))
        if section.rows:
            blocks.append(_grid(section.head, section.rows, section.numbers))
    blocks.append(f"*{_plain(page.footer)}*")
    return "\n\n".join(block for block in blocks if block) + "\n"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: frozenset[int]) -> str:
    rule = ["---:" if place in numbers else "---" for place in range(len(head))]
    lines = [[_plain(name) for name in head], rule, *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    return _MARKED.sub(r"\\\1", " ".join(text.split()))
