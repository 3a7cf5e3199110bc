"""The report: one page that needs nothing from anywhere, and shows what was measured."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from ops.show.charts import agreements, escalations
from ops.show.report import page, write_report
from tests.ops.one_run import PLANTED, picture, summary

_VOID = {"meta", "line", "circle", "path", "br"}


class _Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed() -> None:
    parser = _Balanced()
    parser.feed(page(summary(), picture()))
    parser.close()
    assert parser.open == []


def test_the_page_asks_nothing_of_the_network() -> None:
    html = page(summary(), picture())
    assert not re.search(r"https?://|src=|@import|url\(|<script|<link", html)


def test_the_page_is_written_for_the_light_and_for_the_dark() -> None:
    assert "prefers-color-scheme:dark" in page(summary(), picture())


def test_the_page_says_what_happened() -> None:
    found = summary()
    html = page(found, picture())
    assert "Escalations fell from 100% to " in html
    assert PLANTED[:8] in html
    assert "planted: trained on shuffled labels" in html
    assert "rollback, pinned" in html
    assert all(cycle["verdict"] in html for cycle in found["cycles"])
    assert "Not everything held" not in html


def test_what_did_not_hold_stands_at_the_top() -> None:
    html = page(summary(children_left=3), picture())
    assert html.index("3 processes of the demo are still there") < html.index("<h2>")


def test_what_came_from_outside_is_escaped() -> None:
    html = page(summary(), picture())
    assert "<made up>" not in html
    assert "&lt;made up&gt;" in html
    assert "&lt;at least&gt;" in html


def test_a_run_without_a_version_still_has_a_page() -> None:
    cold = replace(picture(), curve=picture().curve[:3], marks=(), answered=None, audits=None)
    found = summary(cycles=[], swaps=[], rollback=None, planted=None, judged=[], windows=[])
    html = page(found, cold)
    assert "the student never answered anything itself" in html


def test_every_curve_stays_inside_the_frame() -> None:
    for chart in (agreements(picture()), escalations(picture())):
        places = [float(y) for _, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", chart)]
        assert places
        assert all(0 <= place <= 380 for place in places)


def test_the_file_is_utf_8(tmp_path: Path) -> None:
    write_report(summary(), picture(), tmp_path / "report.html")
    assert "→" not in (tmp_path / "report.html").read_text("utf-8").split("<h2>")[0]
    assert "µs" in (tmp_path / "report.html").read_text("utf-8")
