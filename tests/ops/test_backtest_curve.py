"""The figure is drawn, whatever was found."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from msgspec.structs import replace

from ops.backtest.recommend import headline
from ops.backtest.records import Backtest, BacktestPrices
from ops.backtest.report.charts import charts
from ops.backtest.report.gains import per_unit, unit_usd
from ops.backtest.report.page import page
from ops.backtest.report.published import PublishedScore, read_published
from ops.show.canvas import draw_figure
from store.errors import SettingsError
from tests.ops.backtests import backtest

FREE = BacktestPrices(usd_per_call=0.0, usd_per_training_hour=0.0)


def drawn(found: Backtest, path: Path, published: tuple[PublishedScore, ...] = ()) -> bytes:
    draw_figure(path, headline(found), charts(found, published))
    return path.read_bytes()


@pytest.mark.parametrize(
    "case",
    [{}, {"gold": False}, {"budgets": (200,), "seeds": 1}, {"prices": FREE}, {"target": 0.8, "binds_below": 200}],
    ids=["whole", "no true labels", "one run", "no prices", "a promise"],
)
def test_the_figure_is_a_picture_with_something_on_it(case: dict[str, Any], tmp_path: Path) -> None:
    drawn(backtest(tmp_path, **case), tmp_path / "curve.png")
    pixels = imread(tmp_path / "curve.png")
    assert pixels.shape[0] > 800
    assert pixels.shape[1] > 1200
    assert 0.01 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5


def test_the_same_backtest_is_the_same_file(tmp_path: Path) -> None:
    found = backtest(tmp_path)
    assert drawn(found, tmp_path / "a.png") == drawn(found, tmp_path / "b.png")


def test_what_others_published_and_what_is_recommended_are_seen(tmp_path: Path) -> None:
    found = backtest(tmp_path)
    assert found.recommendation is not None
    other = replace(found, recommendation=replace(found.recommendation, budget=850))
    theirs = (PublishedScore(name="cascade", calls=200, accuracy=0.6),)
    pictures = {drawn(found, tmp_path / "a.png"), drawn(other, tmp_path / "b.png")}
    assert len(pictures | {drawn(found, tmp_path / "c.png", theirs)}) == 3
    assert ">cascade 60.0%</text>" in page(found, theirs)
    assert "cascade" not in page(found)


@pytest.mark.parametrize(
    ("steps_usd", "unit"), [((0.6, 0.8, 9.0), 1.0), ((0.3,), 0.1), ((0.02, 0.06, 0.06), 0.1), ((), 1.0)]
)
def test_a_price_is_told_for_no_more_than_twice_what_was_tried(
    tmp_path: Path, steps_usd: tuple[float, ...], unit: float
) -> None:
    found = backtest(tmp_path)
    steps = [replace(found.steps[0], usd_per_day=usd) for usd in steps_usd]
    assert unit_usd(replace(found, steps=steps)) == pytest.approx(unit)
    for step in found.steps:
        told = per_unit(step, 0.1)
        assert told is not None
        assert told.mean == pytest.approx(0.1 * step.gain.mean / step.usd_per_day)


def test_published_numbers_come_from_a_json_list(tmp_path: Path) -> None:
    path = tmp_path / "published.json"
    path.write_text(json.dumps([{"name": "cascade", "calls": 1200, "accuracy": 0.6078}]))
    assert read_published(path) == [PublishedScore(name="cascade", calls=1200, accuracy=0.6078)]
    path.write_text('{"name": "cascade"}')
    with pytest.raises(SettingsError, match="--published"):
        read_published(path)
    with pytest.raises(SettingsError, match="--published"):
        read_published(tmp_path / "gone")
