"""Which setting to start with, why, and what it comes to in words. Pure.

Without a target it is the smaller of two budgets. One is the smallest that is surely within a point of the teacher
alone: the lower bound of the paired difference is above -1 point. The other is the knee of the curve, the budget
farthest above the straight line from the smallest budget to the teacher alone (all rows, the teacher's own score): up
to it a call buys more than that line's slope, after it less. With a target it is the smallest budget at which the
promise was never suspended and may have been kept (the upper bound of answered agreement is not below it), else the
largest that was tried.
"""

import json
import math
import textwrap
from collections.abc import Sequence
from typing import Final

from ops.backtest.findings import Measure
from ops.backtest.records import Ask, Backtest, BacktestPrices, Interval, Point, Recommendation, Run, Step
from ops.backtest.report.words import span
from ops.money.dollars import usd

_MARGIN: Final = 0.01
_YEAR_DAYS: Final = 365.0


def recommend(
    points: Sequence[Point],
    steps: Sequence[Step],
    runs: Sequence[Run],
    measure: Measure,
    prices: BacktestPrices,
    days: float,
) -> Recommendation:
    """The setting to start with.

    Args:
        points: at least one, the smallest budget first.
        steps: between them.
        runs: all of them.
        measure: what answers are compared with.
        prices: dollars.
        days: that the log covers.
    """
    ask = runs[0].ask
    point, why = (
        _by_score(points, steps, measure, runs[0].rows) if ask.target is None else _by_promise(points, ask.target)
    )
    saved = point.spared * prices.usd_per_call - point.training_usd
    first = min((run for run in runs if run.ask.budget == point.budget), key=lambda run: run.ask.seed)
    return Recommendation(
        budget=point.budget,
        calls_per_day=math.ceil(point.budget / days),
        target=ask.target,
        why=why,
        saved_usd_per_day=saved / days if prices.usd_per_call else 0.0,
        break_even_days=break_even_days(first, point.training_usd, prices.usd_per_call, days),
    )


def break_even_days(run: Run, training_usd: float, usd_per_call: float, days: float) -> float | None:
    """Days until the calls that the student spared have paid for training; None: not within a year, or calls are free.

    All of the log's training is charged at the start. Rows are taken to come evenly. After the log's end each day saves
    what a day of its last half did, and training goes on costing what it cost a day.
    """
    if usd_per_call <= 0:
        return None
    saved, day = 0.0, 0.0
    for part in run.slices:
        gain, span = part.spared * usd_per_call, days * part.rows / run.rows
        if gain > 0 and saved + gain >= training_usd:
            return day + span * (training_usd - saved) / gain
        saved, day = saved + gain, day + span
    half = run.slices[len(run.slices) // 2 :]
    half_days = days * sum(part.rows for part in half) / run.rows
    daily = sum(part.spared for part in half) * usd_per_call / half_days - training_usd / days
    if daily <= 0:
        return None
    found = days + (training_usd - saved) / daily
    return found if found <= _YEAR_DAYS else None


def settings_toml(backtest: Backtest, ask: Ask, encoder: str, model: str | None = None) -> str:
    """The recommended setting as it was tested, as lines for `understudy.toml`.

    Args:
        backtest: with a recommendation.
        ask: of one of its runs.
        encoder: that the runs started from, as the settings name it.
        model: likewise, of conversations.
    """
    found = backtest.recommendation
    if found is None:
        message = "no run has ended: there is nothing to recommend"
        raise ValueError(message)
    lines = [
        f"# Recommended by `understudy backtest` of {json.dumps(backtest.log)}. Put these keys into the same tables.",
        *textwrap.wrap(found.why, 110, initial_indent="# ", subsequent_indent="# "),
        "[[lanes]]",
        *([f"task = {json.dumps(backtest.task)}"] if backtest.agreement is not None else []),
        f"policy = {json.dumps(ask.policy)}",
        f"metric = {json.dumps(ask.metric)}",
        *([f"rows_per_day = {math.ceil(backtest.rows / backtest.days)}"] if backtest.per_day else []),
        f"audit_ratio = {ask.audit_ratio}",
    ]
    if backtest.tolerance is not None:
        lines += ["", "[lanes.rank]", f"k = {backtest.tolerance.k}", f"epsilon = {backtest.tolerance.epsilon:g}"]
    if model is not None:
        lines += ["", "[lanes.student]", f"model = {json.dumps(model)}"]
    if ask.target is not None:
        lines += ["", "[lanes.promise]", f"target = {ask.target}", f"confidence = {ask.confidence}"]
    calls = f"calls_per_day = {found.calls_per_day}"
    if not backtest.per_day:
        calls = f"# calls_per_day = {found.budget / backtest.rows:.3g} of the questions that come in a day: see --days"
    lines += ["", "[lanes.budget]", calls]
    lines.append(f"audit_reserve_ratio = {ask.kept_for_audits}")
    lines += ["", "[trainer]", f"encoder = {json.dumps(encoder)}", f"fine_tune = {json.dumps(ask.fine_tune)}"]
    return "\n".join(lines) + "\n"


def score_name(backtest: Backtest) -> str:
    """What answers are scored by."""
    if backtest.has_gold:
        return backtest.metric.replace("_", " ")
    same = f" ({backtest.agreement})" if backtest.agreement is not None else ""
    return f"agreement with the teacher{same}"


def quality(point: Point) -> Interval:
    """The score; without true labels, agreement with the teacher.

    Raises:
        ValueError: no row could be compared with anything.
    """
    found = point.score if point.score is not None else point.agreement
    if found is None:
        message = f"no answer at budget {point.budget} could be compared with anything"
        raise ValueError(message)
    return found


def chosen(backtest: Backtest) -> Point | None:
    """The recommended point."""
    found = backtest.recommendation
    return next((point for point in backtest.points if found is not None and point.budget == found.budget), None)


def spared_ratio(backtest: Backtest, point: Point) -> float:
    """Of the questions, those that the student answered and the teacher was not asked."""
    return point.spared / backtest.rows


def headline(backtest: Backtest) -> str:
    """What would this save, and what would it cost in quality? One short sentence; intervals stand beside it."""
    point = chosen(backtest)
    if point is None:
        return "No run has ended: nothing is known yet"
    calls, rows = f"{point.calls / backtest.days:,.0f}", f"{backtest.rows / backtest.days:,.0f}"
    asked = f"Asking the teacher {calls} of {rows} questions{span(backtest, of='')}"
    saved = f"{spared_ratio(backtest, point):.0%} of its calls"
    if backtest.teacher_usd_per_day and backtest.recommendation is not None:
        money = backtest.recommendation.saved_usd_per_day
        saved = f"{usd(money) if money > 0 else 'nothing'} of {usd(backtest.teacher_usd_per_day)}{span(backtest)}"
    told = (
        f"{asked} would save {saved}, at {quality(point).mean:.1%} {score_name(backtest)}{_distance(backtest, point)}"
    )
    return f"{told}; {point.unanswered_ratio:.0%} would get no answer" if point.unanswered_ratio else told


def share(found: Interval | None) -> str:
    """A share with its interval."""
    return "-" if found is None else f"{found.mean:.1%} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def signed(found: Interval | None) -> str:
    """A difference with its interval, in points."""
    if found is None:
        return "-"
    return f"{100 * found.mean:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _distance(backtest: Backtest, point: Point) -> str:
    away = point.versus_teacher
    if away is None or not backtest.has_gold:
        return ""
    if away.low <= 0 <= away.high:
        return ", about as good as the teacher alone"
    return f", {100 * abs(away.mean):.1f} points {'below' if away.mean < 0 else 'above'} the teacher alone"


def _by_score(points: Sequence[Point], steps: Sequence[Step], measure: Measure, rows: int) -> tuple[Point, str]:
    if len(points) == 1:
        return points[0], "the only budget that was tried"
    knee = points[_knee([(point.calls, quality(point).mean) for point in points], (float(rows), measure.teacher_score))]
    near = next((point for point in points if _surely_near(point)), None)
    if near is not None and near.budget <= knee.budget:
        return near, (
            "the smallest budget that is surely within one point of the teacher alone: "
            f"{signed(near.versus_teacher)} points, on the same rows"
        )
    told = ["the knee of the curve"]
    if (before := next((step for step in steps if step.to_budget == knee.budget), None)) is not None:
        told.append(f"up to here 100 more calls bought {signed(before.gain_per_100_calls)} points")
    if (after := next((step for step in steps if step.from_budget == knee.budget), None)) is not None:
        told.append(f"from here on 100 more buy {signed(after.gain_per_100_calls)}")
    told.append(
        "no budget that was tried is surely within one point of the teacher alone"
        if near is None
        else f"{near.budget:,} is the smallest that is surely within one point of the teacher alone"
    )
    return knee, "; ".join(told)


def _surely_near(point: Point) -> bool:
    return point.versus_teacher is not None and point.versus_teacher.low >= -_MARGIN


def _knee(curve: Sequence[tuple[float, float]], end: tuple[float, float]) -> int:
    """The place of the point farthest above the line from the first point to `end`; ties go to the first."""
    (x0, y0), (x1, y1) = curve[0], end
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
    above = [y - y0 - slope * (x - x0) for x, y in curve]
    return above.index(max(above))


def _by_promise(points: Sequence[Point], target: float) -> tuple[Point, str]:
    for point in points:
        own = point.answered_agreement
        if point.suspended_ratio == 0 and (own is None or own.high >= target):
            kept = "was" if own is not None and own.low >= target else "may have been"
            why = "was never suspended" if own is None else f"{kept} kept, and was never suspended"
            made = f"{point.calls:,.0f} calls were made"
            return point, f"the smallest budget at which the promise {why}; {made}; {_own(own, target)}"
    last = points[-1]
    return last, (
        "the largest budget that was tried: at none of them could the promise be kept without being suspended; here"
        f" it was suspended for {last.suspended_ratio:.1%} of the questions;"
        f" {_own(last.answered_agreement, target)}"
    )


def _own(agreement: Interval | None, target: float) -> str:
    if agreement is None:
        return f"the student answered nothing by its own decision: no version was certified for {target:.1%}"
    return f"of the student's own answers {share(agreement)} agree with the teacher, {target:.1%} promised"
