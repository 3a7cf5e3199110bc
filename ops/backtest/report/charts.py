"""The charts of the backtest's page and of `curve.png`."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from ops.backtest.recommend import chosen, quality, score_name, share, signed
from ops.backtest.records import Backtest, Point, Run
from ops.backtest.report.gains import at_random, buys, oracle
from ops.backtest.report.published import PublishedScore
from ops.money.dollars import usd
from ops.show.plot import Plot, count, percent, ticks
from trainer.judge.intervals import wilson

_RIGHT: Final = 172
_MARGIN: Final = 0.02


def charts(backtest: Backtest, published: Sequence[PublishedScore] = ()) -> list[Plot]:
    """What `curve.png` shows: the curve, and below it the price of one more call."""
    return [curve(backtest, published), *([prices(backtest)] if backtest.steps else [])]


def curve(backtest: Backtest, published: Sequence[PublishedScore] = ()) -> Plot:
    """The score against teacher calls, between random escalation, the oracle and the teacher alone."""
    points = sorted(backtest.points, key=lambda point: point.calls)
    teacher = 1.0 if backtest.teacher_score is None else backtest.teacher_score
    lines = {
        "oracle": ("system", [(point.calls, value) for point in points if (value := oracle(point)) is not None]),
        "random": ("escalated", [(point.calls, value) for point in points if (value := at_random(point)) is not None]),
    }
    found = [quality(point) for point in points]
    shown = [teacher, *(one.low for one in found), *(one.high for one in found)]
    shown += [value for _, line in lines.values() for _, value in line]
    shown += [one.accuracy for one in published]
    low, high = max(0.0, min(shown) - _MARGIN), min(1.0, max(shown) + _MARGIN)
    label = f"{score_name(backtest).capitalize()} of all answers over teacher calls, 95 % interval"
    plot = Plot(label, across=(0, backtest.rows), up=(low, high), height=400, right=_RIGHT)
    plot.grid(ticks(low, high, 8))
    each = backtest.prices.usd_per_call / backtest.days
    plot.feet(ticks(0, backtest.rows, 6), lambda calls: f"{calls:,.0f}{f' · {usd(calls * each)}' if each else ''}")
    band = [(point.calls, one) for point, one in zip(points, found, strict=True)]
    if len(points) == 1:  # a band needs a width
        band = [(points[0].calls + aside, found[0]) for aside in (-backtest.rows / 300, backtest.rows / 300)]
    plot.area([(at, one.high) for at, one in band], [(at, one.low) for at, one in band], "student")
    names = []
    for name, (colour, line) in lines.items():
        if line:
            plot.line(line, colour, width=1.6, dashes=(6, 4))
            for at, value in line:
                plot.dot(at, value, colour, size=3.5, told=f"{name}: {value:.1%}")
            names.append((line[-1][1], f"{name} {line[-1][1]:.1%}", colour))
    ours = [(point.calls, quality(point).mean) for point in points]
    plot.line(ours, "student")
    names.append((ours[-1][1], f"understudy {ours[-1][1]:.1%}", "student"))
    plot.level(teacher)
    names.append((teacher, f"teacher alone {teacher:.1%}", "ink"))
    best = chosen(backtest)
    for point in points:
        _dot(plot, point, backtest, recommended=point is best)
    names += _beside(plot, published)
    plot.ends(names)
    return plot


def calls_over_time(run: Run, *, has_gold: bool) -> Plot:
    """The share of questions that went to the teacher in each twentieth of a run, and the quality of all answers."""
    label = "Teacher calls and quality over the log"
    plot = Plot(label, across=(0, run.rows), up=(0.0, 1.0), height=280, right=_RIGHT)
    plot.grid([0, 0.25, 0.5, 0.75, 1])
    plot.feet(ticks(0, run.rows, 6))
    steps: list[tuple[float, float]] = []
    scored: list[tuple[float, float, int]] = []
    for part in run.slices:
        ratio = part.calls / part.rows
        steps += [(part.first_row, ratio), (part.first_row + part.rows, ratio)]
        value = part.accuracy if has_gold else part.agreement
        if value is not None:
            scored.append((part.first_row + part.rows / 2, value, part.rows))
    plot.area(steps, [(at, 0.0) for at, _ in steps], "escalated")
    plot.line(steps, "escalated")
    names = [(steps[-1][1], f"to the teacher {steps[-1][1]:.0%}", "escalated")]
    if scored:
        bounds = [(at, wilson(value * rows, rows)) for at, value, rows in scored]
        plot.area([(at, high) for at, (_, high) in bounds], [(at, low) for at, (low, _) in bounds], "student")
        plot.line([(at, value) for at, value, _ in scored], "student")
        names.append((scored[-1][1], f"{'accuracy' if has_gold else 'agreement'} {scored[-1][1]:.0%}", "student"))
    plot.ends(names)
    return plot


def prices(backtest: Backtest) -> Plot:
    """What one more dollar a day (or 100 more calls) buys from each budget to the next."""
    told, read = buys(backtest)
    found = [(step, gain) for step in backtest.steps if (gain := read(step)) is not None]
    low = min([0.0, *(100 * gain.low for _, gain in found)])
    high = max([0.0, *(100 * gain.high for _, gain in found)])
    label = f"Points of {score_name(backtest)} that {told}, 95 % intervals"
    plot = Plot(label, across=(0, backtest.rows), up=(low, high if high > low else low + 1), height=220, right=_RIGHT)
    values = ticks(*plot.up, 4)
    digits = max(0, -math.floor(math.log10(values[-1] - values[-2]) + 1e-9)) if len(values) > 1 else 0
    plot.grid(values, lambda value: f"{value:.{digits}f}")
    plot.feet(ticks(0, backtest.rows, 6), count)
    calls = {point.budget: point.calls for point in backtest.points}
    best = chosen(backtest)
    for step, gain in found:
        ends = (calls[step.from_budget], calls[step.to_budget])
        near = best is not None and best.budget in {step.from_budget, step.to_budget}
        plot.area([(at, 100 * gain.high) for at in ends], [(at, 100 * gain.low) for at in ends], "student")
        plot.line([(at, 100 * gain.mean) for at in ends], "student", width=3.2 if near else 1.6)
        plot.dot(sum(ends) / 2, 100 * gain.mean, "student", size=4, told=f"{told} {signed(gain)} points")
    plot.axis(0)
    return plot


def _beside(plot: Plot, published: Sequence[PublishedScore]) -> list[tuple[float, str, str]]:
    """What others published, each name a line of its own; the names at the ends of theirs."""
    ordered = sorted(published, key=lambda one: (one.name, one.calls))
    names = []
    for name, group in groupby(ordered, key=lambda one: one.name):
        spots = [(one.calls, one.accuracy) for one in group]
        plot.line(spots, "soft", width=1, dashes=(1, 3))
        for at, value in spots:
            plot.dot(at, value, "soft", size=4, told=f"{name}: {value:.1%}")
        names.append((spots[-1][1], f"{name} {spots[-1][1]:.1%}", "soft"))
    return names


def _dot(plot: Plot, point: Point, backtest: Backtest, *, recommended: bool) -> None:
    found = quality(point)
    told = f"{point.calls:,.0f} calls ({percent(point.calls_ratio)}): {share(found)} {score_name(backtest)}"
    plot.dot(point.calls, found.mean, "student", size=8 if recommended else 4.5, told=told)
    if recommended:
        words = f"recommended: {point.calls:,.0f} calls, {found.mean:.1%}"
        plot.upright(point.calls, "student", words, strong=True)
