"""`curve.png`: what teacher calls buy, and what one more of them would."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from ops.backtest.findings import scaled
from ops.backtest.recommend import chosen, headline, quality, score_name
from ops.backtest.records import Backtest, Interval, Point, Step
from ops.backtest.report.words import span
from ops.money.dollars import usd
from ops.show.canvas import FAINT, INK, figure
from store.errors import SettingsError

OURS: Final = "#0f7fa8"
ORACLE: Final = "#6b5bb5"
RANDOM: Final = "#d17a00"
_GREYS: Final = (("#5f6b76", "D"), ("#8f9aa5", "s"), ("#b0762f", "^"), ("#7d8f6a", "v"), ("#a0687c", "P"))
_FLIP: Final = 0.3  # of the rows: beyond it words stand to the left of their line, the legend being on the right
_EARLY: Final = (
    0.5  # of the rows: where all points lie before it, the teacher's name stands on the right, clear of them
)
_VEIL: Final[Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A number that somebody else published for this log."""

    name: str
    calls: float
    accuracy: float  # of all answers, in [0, 1]


def read_published(path: Path) -> list[Published]:
    """A JSON list of published numbers.

    Raises:
        SettingsError: the file cannot be read as one.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Published])
    except (OSError, msgspec.MsgspecError) as error:
        message = f"--published {path}: {error}"
        raise SettingsError(message) from error


def draw_curve(backtest: Backtest, path: Path, published: Sequence[Published] = ()) -> None:
    """Draw the curve, and below it the price of one more call; the folder exists."""
    points = sorted(backtest.points, key=lambda point: point.calls)
    with figure(path, size=(11, 7.8 if backtest.steps else 5.8), title=headline(backtest)) as drawn:
        if backtest.steps:
            top, bottom = drawn.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3.4, 1], "hspace": 0.2})
            _prices(bottom, backtest)
            lowest, below = bottom, 0.075
        else:
            top = lowest = drawn.subplots()
            below = 0.1
        _curve(top, backtest, points, published)
        lowest.set_xlabel("teacher calls over the log")
        lowest.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        top.set_xlim(0, backtest.rows * 1.01)
        if backtest.prices.usd_per_call:
            _dollars(top, backtest)
        drawn.subplots_adjust(left=0.07, right=0.965, top=0.825 if backtest.prices.usd_per_call else 0.86, bottom=below)


def _curve(axes: Axes, backtest: Backtest, points: Sequence[Point], published: Sequence[Published]) -> None:
    calls, found = [point.calls for point in points], [quality(point) for point in points]
    for name, colour, read in (
        ("oracle: the same student, the calls where they help most", ORACLE, oracle),
        ("random escalation: the same student and calls", RANDOM, at_random),
    ):
        known = [(point.calls, value) for point in points if (value := read(point)) is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour, lw=1.6, ls=(0, (5, 2)), marker="o", ms=3.5, label=name)
    lows, highs = [one.low for one in found], [one.high for one in found]
    if len(points) > 1:
        axes.fill_between(calls, lows, highs, color=OURS, alpha=0.15, lw=0)
    else:
        axes.vlines(calls, lows, highs, color=OURS, lw=2, alpha=0.5)
    name = f"understudy: {score_name(backtest)}, 95 % interval"
    axes.plot(calls, [one.mean for one in found], color=OURS, lw=2.6, marker="o", ms=6, label=name, zorder=4)
    _teacher(axes, backtest)
    _published(axes, published)
    axes.margins(y=0.08)
    _recommended(axes, backtest)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    pad = 27 if backtest.prices.usd_per_call else 6  # beside the dollars' name
    axes.set_title(
        f"{score_name(backtest).capitalize()} of all answers", size=10, loc="left", color=FAINT, y=1.0, pad=pad
    )
    axes.legend(loc="lower right", frameon=False, fontsize=9)


def _teacher(axes: Axes, backtest: Backtest) -> None:
    score = 1.0 if backtest.teacher_score is None else backtest.teacher_score
    axes.axhline(score, color=INK, lw=1.2, ls=(0, (5, 3)))
    early = max(point.calls_ratio for point in backtest.points) < _EARLY
    axes.annotate(
        f"teacher only, every question: {score:.1%}",
        (0.994 if early else 0.006, score),
        ha="right" if early else "left",
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        size=9,
        color=INK,
        bbox=_VEIL,
    )


def _published(axes: Axes, published: Sequence[Published]) -> None:
    ordered = sorted(published, key=lambda one: (one.name, one.calls))
    for place, (name, group) in enumerate(groupby(ordered, key=lambda one: one.name)):
        colour, marker = _GREYS[place % len(_GREYS)]
        spots = [(one.calls, one.accuracy) for one in group]
        axes.plot(*zip(*spots, strict=True), color=colour, lw=0.9, ls=":", marker=marker, ms=6, label=name, zorder=3)


def _recommended(axes: Axes, backtest: Backtest) -> None:
    point = chosen(backtest)
    if point is None:
        return
    score = quality(point).mean
    axes.plot(point.calls, score, marker="o", ms=15, mfc="none", mec=OURS, mew=2, zorder=5)
    bottom = axes.get_ylim()[0]
    axes.vlines(point.calls, bottom, score, color=OURS, lw=1.2, ls=(0, (1, 2)))
    axes.set_ylim(bottom=bottom)
    flip = point.calls_ratio > _FLIP
    axes.annotate(
        f"recommended: {point.calls:,.0f} calls, {score:.1%}",
        (point.calls, bottom),
        xytext=(-8 if flip else 8, 8),
        textcoords="offset points",
        ha="right" if flip else "left",
        size=9.5,
        weight="bold",
        color=OURS,
        bbox=_VEIL,
    )


def _dollars(axes: Axes, backtest: Backtest) -> None:
    """The same axis in dollars a day, for the teacher alone."""
    each = backtest.prices.usd_per_call / backtest.days

    def dollars(calls: Any) -> Any:
        return calls * each

    def back(money: Any) -> Any:
        return money / each

    above = axes.secondary_xaxis("top", functions=(dollars, back))
    above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: usd(value)))
    above.set_xlabel(f"paid to the teacher,{span(backtest)}", size=9.5, color=FAINT, loc="right")


def _prices(axes: Axes, backtest: Backtest) -> None:
    """One bar a step, as wide as the calls that it bought."""
    told, read = buys(backtest)
    calls = {point.budget: point.calls for point in backtest.points}
    best = backtest.recommendation.budget if backtest.recommendation is not None else None
    for step in backtest.steps:
        gain = read(step)
        if gain is None:
            continue
        ends = (calls[step.from_budget], calls[step.to_budget])
        near = best in {step.from_budget, step.to_budget}
        axes.fill_between(ends, 100 * gain.low, 100 * gain.high, color=OURS, alpha=0.3 if near else 0.13, lw=0)
        axes.plot(ends, (100 * gain.mean, 100 * gain.mean), color=OURS, lw=2.6 if near else 1.6)
    axes.axhline(0, color=INK, lw=0.8)
    axes.set_title(
        f"What {told}, in points of {score_name(backtest)}, 95 % intervals", size=10, loc="left", color=FAINT
    )


def buys(backtest: Backtest) -> tuple[str, Callable[[Step], Interval | None]]:
    """What buys a step's gain, in words, and its gain for that much."""
    if backtest.prices.usd_per_call:
        unit = unit_usd(backtest)
        more = "one more dollar" if unit == 1.0 else f"${unit:g} more"
        return f"{more}{span(backtest)} buys", lambda step: per_unit(step, unit)
    return "100 more calls buy", lambda step: step.gain_per_100_calls


def fewer_cost(backtest: Backtest) -> str:
    """The same the other way round, in words: what its gain is lost for."""
    if backtest.prices.usd_per_call:
        unit = unit_usd(backtest)
        return f"{'one dollar' if unit == 1.0 else f'${unit:g}'}{span(backtest)} less costs"
    return "100 calls fewer cost"


def unit_usd(backtest: Backtest) -> float:
    """Dollars a day that a step's gain is told for: one, or a tenth, a hundredth … of it where steps are smaller.

    No more than twice what lies between two budgets: beyond that nothing was tried.
    """
    steps = [step.usd_per_day for step in backtest.steps if step.usd_per_day > 0]
    return min(1.0, 10.0 ** math.floor(math.log10(2.0 * float(np.median(steps))))) if steps else 1.0


def per_unit(step: Step, unit: float) -> Interval | None:
    """A step's gain for so many dollars a day; None where calls cost nothing."""
    return scaled(step.gain_per_usd_day, unit) if step.gain_per_usd_day is not None else None


def oracle(point: Point) -> float | None:
    """The oracle's score; without true labels, its agreement."""
    return point.oracle_score if point.score is not None else point.oracle_agreement


def at_random(point: Point) -> float | None:
    """The score of random escalation; without true labels, its agreement."""
    return point.random_score if point.score is not None else point.random_agreement
