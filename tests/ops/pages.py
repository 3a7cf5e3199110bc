"""What every page of ours must be."""

import re
from html.parser import HTMLParser

_VOID = {"meta", "line", "path", "br"}


class _Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_well_formed(html: str) -> None:
    """Every element that is opened is closed, in order."""
    parser = _Balanced()
    parser.feed(html)
    parser.close()
    assert parser.open == []


def assert_offline(html: str) -> None:
    """Nothing is fetched, and nothing runs."""
    assert not re.search(r"https?://|src=|@import|url\(|<script|<link|javascript:", html)


def heights(chart: str) -> list[float]:
    """Where the points of a chart's paths lie, down the page."""
    return [float(y) for _, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", chart)]
