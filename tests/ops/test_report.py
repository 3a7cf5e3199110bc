"""The report: one page that needs nothing from anywhere, and shows what was measured."""

from dataclasses import replace
from pathlib import Path

import msgspec

from ops.demo.measures.summary import build
from ops.demo.page.charts import agreements, escalations
from ops.demo.page.picture import headline
from ops.demo.page.report import page, write_report
from ops.money.dollars import usd
from tests.ops.one_run import NAME, PLANTED, measured, money, picture, pictures, played, run, summary, traffic
from tests.ops.pages import assert_offline, assert_well_formed, heights


def test_the_page_is_well_formed() -> None:
    assert_well_formed(page(summary(), pictures()))


def test_the_page_asks_nothing_of_the_network() -> None:
    assert_offline(page(summary(), pictures()))


def test_the_page_is_written_for_the_light_and_for_the_dark() -> None:
    assert "prefers-color-scheme:dark" in page(summary(), pictures())


def test_the_page_says_what_happened() -> None:
    found = summary()
    html = page(found, pictures())
    assert "Escalations fell from 100% to " in html
    assert PLANTED[:8] in html
    assert "planted: trained on shuffled answers" in html
    assert "rollback, pinned" in html
    assert all(cycle["verdict"] in html for cycle in found["lanes"][NAME]["cycles"])
    assert "Not everything held" not in html


def test_the_page_says_what_was_spent_and_saved_and_at_which_prices() -> None:
    found = summary()
    html = page(found, pictures())
    saved = usd(found["lanes"][NAME]["money"]["saved_usd"])
    assert f"<b>{saved}</b><span>saved of $0.48 for the teacher alone; " in html
    assert "$0.016 of it on audits" in html
    assert "at assumed prices, $2.5 for a million tokens in and $10 out" in html
    assert "a day" not in html.replace("told for a day", "")
    dear = msgspec.structs.replace(money(played()[0]), saved_usd=-0.25)
    assert "<b>$0.25</b><span>more than the $0.48 of the teacher alone" in page(summary(money=dear), pictures())
    assert "teacher alone;" not in page(summary(money=None), pictures())


def test_a_headline_is_short_and_has_no_brackets() -> None:
    told = headline(pictures())
    assert len(told) < 120
    assert not set(told) & set("()[]")


def test_what_did_not_hold_stands_at_the_top() -> None:
    html = page(summary(children_left=3), pictures())
    assert html.index("3 processes of the demo are still there") < html.index("<h2>")


def test_what_came_from_outside_is_escaped() -> None:
    html = page(summary(), pictures())
    assert "<made up>" not in html
    assert "&lt;made up&gt;" in html
    assert "&lt;at least&gt;" in html


def test_a_run_without_a_version_still_has_a_page() -> None:
    cold = replace(picture(), curve=picture().curve[:3], marks=(), answered=None, audits=None)
    found = summary(cycles=[], swaps=[], rollback=None, planted=None, judged=[], windows=[])
    html = page(found, {NAME: cold})
    assert "the student never answered anything itself" in html


def test_every_curve_stays_inside_the_frame() -> None:
    for chart in (agreements(picture()), escalations(picture())):
        places = heights(chart.svg())
        assert places
        assert all(0 <= place <= 380 for place in places)


def test_the_file_is_utf_8(tmp_path: Path) -> None:
    write_report(summary(), pictures(), tmp_path / "report.html")
    assert "→" not in (tmp_path / "report.html").read_text("utf-8").split("<h2>")[0]
    assert "µs" in (tmp_path / "report.html").read_text("utf-8")


def test_a_page_of_several_lanes_shows_each_under_its_name() -> None:
    found = build(run(measured(), measured(traffic=traffic("shop"), bought=[])))
    html = page(found, {NAME: picture(), "demo/shop": picture()})
    assert_well_formed(html)
    assert html.index(f">{NAME}</h1>") < html.index(">demo/shop</h1>")
    assert html.count("Three agreements with the teacher") == 2
    assert html.count("a budget instead of a promise") == 1
    assert len(headline({NAME: picture(), "demo/shop": picture()})) < 160
