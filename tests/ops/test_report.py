"""The report: one page that needs nothing from anywhere, and shows what was measured."""

from dataclasses import replace
from pathlib import Path

from ops.show.charts import agreements, escalations
from ops.show.report import page, write_report
from tests.ops.one_run import PLANTED, picture, summary
from tests.ops.pages import assert_offline, assert_well_formed, heights


def test_the_page_is_well_formed() -> None:
    assert_well_formed(page(summary(), picture()))


def test_the_page_asks_nothing_of_the_network() -> None:
    assert_offline(page(summary(), picture()))


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
        places = heights(chart)
        assert places
        assert all(0 <= place <= 380 for place in places)


def test_the_file_is_utf_8(tmp_path: Path) -> None:
    write_report(summary(), picture(), tmp_path / "report.html")
    assert "→" not in (tmp_path / "report.html").read_text("utf-8").split("<h2>")[0]
    assert "µs" in (tmp_path / "report.html").read_text("utf-8")
