"""The frame of a chart: round numbers along its axes, and nothing outside it."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.show.canvas import draw_figure
from ops.show.plot import LEFT, TOP, Plot, ticks
from tests.ops.pages import heights


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), parts=st.integers(2, 12))
def test_ticks_are_evenly_spaced_multiples_inside_the_axis(low: float, span: float, parts: int) -> None:
    found = ticks(low, low + span, parts)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert 1 <= len(found) <= parts + 1
    assert all(low - slack <= value <= low + span + slack for value in found)
    if len(found) > 1:
        step = found[1] - found[0]
        assert all(abs(b - a - step) <= slack for a, b in pairwise(found))


def test_ticks_are_round() -> None:
    assert ticks(0, 3833, 6) == [0, 1000, 2000, 3000]
    assert ticks(0, 1000, 6) == [0, 200, 400, 600, 800, 1000]
    assert [round(value, 2) for value in ticks(0.52, 0.78, 8)] == [0.55, 0.6, 0.65, 0.7, 0.75]


def test_values_beyond_the_frame_are_drawn_at_its_edge() -> None:
    plot = Plot("x", across=(0, 10), up=(0.5, 1.0), height=200)
    plot.line([(0, 0.0), (10, 2.0)], "student")
    assert heights(plot.svg()) == [170.0, float(TOP)] * 2  # wide and narrow


def test_a_name_is_pushed_below_one_that_it_would_cover() -> None:
    plot = Plot("x", across=(0, 10), up=(0.0, 1.0), height=200)
    plot.ends([(0.5, "second", "student"), (0.51, "first", "system"), (0.1, "far", "ink")])
    svg = plot.svg()
    assert svg.index("first") < svg.index("second") < svg.index("far")
    assert plot.x(0) == LEFT


def test_words_are_escaped() -> None:
    plot = Plot("<d>", across=(0, 10), up=(0.0, 1.0), height=200)
    plot.upright(1, "ink", "<a>")
    plot.dot(1, 0.5, "student", told="<b>")
    plot.level(0.5, "<c>")
    assert not any(tag in plot.svg() for tag in ("<a>", "<b>", "<c>", "<d>"))


@pytest.mark.parametrize(("at", "anchor"), [(1, "start"), (9, "end")])
def test_words_beside_a_line_stay_inside_the_frame(at: float, anchor: str) -> None:
    plot = Plot("x", across=(0, 10), up=(0.0, 1.0), height=200)
    plot.upright(at, "ink", "told")
    assert plot.svg().count(f'text-anchor="{anchor}"') == 2


def test_a_figure_shows_every_stroke_that_a_page_shows(tmp_path: Path) -> None:
    """Each kind of stroke, left out, is missed in the picture."""
    strokes: list[Callable[[Plot], None]] = [
        lambda plot: plot.grid([0.25, 0.75]),
        lambda plot: plot.feet([2, 8]),
        lambda plot: plot.line([(0, 0.1), (10, 0.9)], "student"),
        lambda plot: plot.area([(0, 0.3), (10, 0.4)], [(0, 0.2), (10, 0.1)], "system"),
        lambda plot: plot.dot(4, 0.6, "fail"),
        lambda plot: plot.upright(3, "ink", "told"),
        lambda plot: plot.level(0.55, "promised"),
        lambda plot: plot.ends([(0.5, "name", "student")]),
        lambda plot: plot.axis(0.0),
    ]
    pictures = set()
    for left_out in [None, *strokes]:
        plot = Plot("x", across=(0, 10), up=(0.0, 1.0), height=200)
        for stroke in strokes:
            if stroke is not left_out:
                stroke(plot)
        draw_figure(tmp_path / "figure.png", "title", [plot])
        pictures.add((tmp_path / "figure.png").read_bytes())
    assert len(pictures) == len(strokes) + 1
