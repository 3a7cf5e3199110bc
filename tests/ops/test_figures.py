"""The figure is drawn, whatever the run was."""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from ops.demo.page.charts import charts
from ops.demo.page.picture import Mark, Picture, headline
from ops.show.canvas import draw_figure
from tests.ops.one_run import NAME, picture, pictures


def draw_run(pictures: dict[str, Picture], path: Path) -> None:
    draw_figure(path, headline(pictures), charts(pictures))


def cold() -> Picture:
    return replace(picture(), curve=picture().curve[:3], marks=(), answered=None, audits=None)


@pytest.mark.parametrize("drawn", [picture(), cold()], ids=["whole", "cold"])
def test_the_figure_is_a_picture_with_something_on_it(drawn: Picture, tmp_path: Path) -> None:
    draw_run({NAME: drawn}, tmp_path / "run.png")
    pixels = imread(tmp_path / "run.png")
    assert pixels.shape[0] > 800
    assert pixels.shape[1] > 1200
    assert 0.01 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.9


def test_the_same_run_is_the_same_file(tmp_path: Path) -> None:
    draw_run(pictures(), tmp_path / "a.png")
    draw_run(pictures(), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_planted_challenger_that_passed_is_drawn_as_that(tmp_path: Path) -> None:
    changed = replace(picture(), marks=(Mark(at=600, kind="pass", text="", planted=True),))
    draw_run(pictures(), tmp_path / "a.png")
    draw_run({NAME: changed}, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_each_lane_of_a_run_has_its_own_curves(tmp_path: Path) -> None:
    draw_run(pictures(), tmp_path / "one.png")
    draw_run({**pictures(), "demo/shop": cold()}, tmp_path / "two.png")
    one, two = imread(tmp_path / "one.png"), imread(tmp_path / "two.png")
    assert two.shape[0] > 1.8 * one.shape[0]
    lower = two[one.shape[0] :, :, :3]
    assert 0.01 < (lower.min(axis=2) < 0.9).mean() < 0.9
