"""The pages on a telephone: nothing runs over the edge, charts fit, tables become blocks."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from ops.backtest.report.page import page as backtest_page
from ops.demo.page.report import page as demo_page
from ops.show.plot import Plot
from tests.ops.backtests import backtest
from tests.ops.one_run import pictures, summary

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTH: Final = 390
FRAME: Final = """<!doctype html><body>
<iframe id="page" src="{name}" style="width:{width}px;height:4000px;border:0"></iframe>
<script>onload=()=>{{document.title="width "+page.contentDocument.scrollingElement.scrollWidth}}</script>"""


def pages(folder: Path) -> dict[str, str]:
    """Every page of ours, by name."""
    return {
        "demo": demo_page(summary(), pictures()),
        "backtest": backtest_page(backtest(folder, target=0.8, binds_below=200)),
    }


@pytest.mark.parametrize("name", ["demo", "backtest"])
def test_each_chart_is_there_twice_and_each_cell_has_its_name(tmp_path: Path, name: str) -> None:
    html = pages(tmp_path)[name]
    assert html.count('<svg class="wide"') == html.count('<svg class="narrow"') > 0
    for table in re.findall(r'<table class="rows">.*?</table>', html):
        heads = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", table)
        for row in re.findall(r"<tr>(<td.*?)</tr>", table):
            assert re.findall(r'<td[^>]* data-head="([^"]*)"', row) == heads
    assert "min-width:760px" not in html


@pytest.mark.parametrize("name", ["demo", "backtest"])
def test_headings_are_words_and_no_names_of_the_code(tmp_path: Path, name: str) -> None:
    headings = re.findall(r"<h[12][^>]*>(.*?)</h[12]>", pages(tmp_path)[name], re.DOTALL)
    assert len(headings) > 5
    assert not [heading for heading in headings if re.search(r"[a-z][A-Z]|_", heading)]


@pytest.mark.parametrize("name", ["demo", "backtest"])
def test_a_cell_is_one_piece_since_a_narrow_row_would_set_pieces_side_by_side(tmp_path: Path, name: str) -> None:
    html = pages(tmp_path)[name]
    for table in re.findall(r'<table class="rows">.*?</table>', html):
        for cell in re.findall(r"<td[^>]*>(.*?)</td>", table):
            assert re.fullmatch(r"[^<]*|<(\w+)[^>]*>.*</\1>", cell), cell


def test_of_the_numbers_below_a_narrow_frame_as_many_are_shown_as_fit() -> None:
    plot = Plot("x", across=(0, 10), up=(0.0, 1.0), height=200)
    plot.feet(range(0, 12, 2), lambda value: f"{value:,.0f} and some words")
    wide, narrow = plot.svg().split("</svg>")[:2]
    assert (wide.count("<text"), narrow.count("<text")) == (6, 2)


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("name", ["demo", "backtest"])
def test_no_page_scrolls_sideways(tmp_path: Path, name: str) -> None:
    (tmp_path / "page.html").write_text(pages(tmp_path)[name], "utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(name="page.html", width=WIDTH), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(CHROMIUM), *flags, profile, "--virtual-time-budget=3000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.findall("<title>(.*?)</title>", done.stdout) == [f"width {WIDTH}"]
