"""What the runs of a backtest come to: points with intervals, and the price of one more teacher call. Pure.

An interval answers for two kinds of chance at once. The *runs* differ: with the mean m of k seeds and their deviation
s, Student's t gives the half-width t(k-1, .975) * s / sqrt(k); one seed alone gives none. And the log's *rows* are a
sample of the traffic to come, the same for every seed, so that more seeds do not help: Wilson's interval of m over the
log's n rows, from m - w_low to m + w_high. The two are independent and are added as squares:

    low = m - sqrt((t s / sqrt(k))^2 + w_low^2),  high = m + sqrt((t s / sqrt(k))^2 + w_high^2).

Balanced accuracy weights rows by their class; n is then Kish's effective number of rows, 1 / sum(weight^2).

Differences (one budget less another, a budget less the teacher alone) are paired: by seed for the first part, and row
by row for the second, which is 1.96 * sqrt(sum_i (w_i (d_i - d))^2 + 1 / n^2) with a row's weight w_i and its mean
difference d_i over seeds. The last term is one more row that differs: few such rows must not look like certainty.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ops.backtest.log import Log
from ops.backtest.records import (
    Answers,
    Backtest,
    BacktestPrices,
    HardTopic,
    Interval,
    Point,
    Recommendation,
    Run,
    Step,
)
from store.policy import Metric
from trainer.judge.intervals import wilson

_LEVEL: Final = 0.05
_Z: Final = float(stats.norm.ppf(1 - _LEVEL / 2))
_SHOWN_BAD: Final = 20
_HOUR_S: Final = 3600.0

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What answers are compared with, row by row of the log: true labels, else the teacher's answers."""

    truth: list[str | None]
    weights: Floats  # [rows], summing to 1; 0 where there is nothing to compare with
    teacher_right: Flags  # [rows]
    labelled: int  # rows with a usable teacher answer
    has_gold: bool
    log: Log | None = None  # whose words are compared; None: the very same are the same answer

    @property
    def rows(self) -> float:
        """How many rows of equal weight say as much (Kish)."""
        return float(1.0 / (self.weights**2).sum())

    @property
    def teacher_score(self) -> float:
        """The teacher alone; 1 where it is its own measure."""
        return float(self.weights @ self.teacher_right)

    def right(self, answers: Answers) -> Flags:
        """[rows of the log], whether the answer that was given is the true one."""
        found = np.zeros(len(self.truth), np.bool_)
        found[answers.rows] = [
            self._agree(self.truth[row], answer) for row, answer in zip(answers.rows, answers.answer, strict=True)
        ]
        return found

    def _agree(self, truth: str | None, answer: str) -> bool:
        if self.log is None or self.has_gold:
            return answer == truth
        return truth is not None and self.log.in_its_words(truth, answer) == truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that has ended, and which rows of the log it got right."""

    run: Run
    right: Flags  # [rows of the log]


def measure_of(log: Log, metric: Metric) -> Measure:
    """True labels where the log has any, else the teacher's answers, each as much as another."""
    truth = log.gold if log.has_gold else log.labels
    compared = np.array([label is not None for label in truth])
    weights = compared.astype(np.float64)
    if log.has_gold and metric == "balanced_accuracy":
        names = np.array([label or "" for label in truth])
        for name in np.unique(names[compared]):
            weights[compared & (names == name)] /= (compared & (names == name)).sum()
    right = np.array([label is not None and label == true for label, true in zip(log.labels, truth, strict=True)])
    return Measure(
        truth=truth,
        weights=weights / weights.sum(),
        teacher_right=right,
        labelled=log.rows - log.unusable,
        has_gold=log.has_gold,
        log=log,
    )


def mean_interval(values: Sequence[float], rows: float) -> Interval:
    """The mean of a share over seeds, with the interval of this module's docstring.

    Args:
        values: one a seed, at least one; each in [0, 1].
        rows: that each of them is a share of.
    """
    mean = float(np.mean(values))
    low, high = wilson(mean * rows, rows)
    spread = _seed_half_width(values)
    return Interval(
        mean=mean,
        low=max(0.0, mean - math.hypot(spread, mean - low)),
        high=min(1.0, mean + math.hypot(spread, high - mean)),
    )


def paired_interval(differences: Floats, weights: Floats) -> Interval:
    """The mean of a paired difference, with the interval of this module's docstring.

    Args:
        differences: [seeds, rows], in [-1, 1]: first right less second right.
        weights: [rows], summing to 1.
    """
    values = differences @ weights
    mean = float(values.mean())
    by_row = weights * (differences.mean(axis=0) - mean)
    over_rows = _Z * math.sqrt(float((by_row**2).sum() + (weights**2).sum() ** 2))
    half = math.hypot(_seed_half_width(values), over_rows)
    return Interval(mean=mean, low=mean - half, high=mean + half)


def points_of(finished: Iterable[Finished], measure: Measure, prices: BacktestPrices, days: float) -> list[Point]:
    """One point for each budget, the smallest first."""
    groups = _by_budget(finished)
    return [_point(budget, groups[budget], measure, prices, days) for budget in sorted(groups)]


def steps_of(finished: Iterable[Finished], measure: Measure, prices: BacktestPrices, days: float) -> list[Step]:
    """What each budget buys over the one before it, from the seeds that both were run with.

    No step leads to a budget that bought no more calls than the one before: a promise may need no more of them.
    """
    groups = _by_budget(finished)
    points = {point.budget: point for point in points_of(finished, measure, prices, days)}
    steps = []
    for lower, higher in pairwise(sorted(groups)):
        seeds = sorted(groups[lower].keys() & groups[higher].keys())
        if not seeds:
            continue
        calls = float(np.mean([groups[higher][seed].run.calls - groups[lower][seed].run.calls for seed in seeds]))
        if calls <= 0:
            continue
        gain = paired_interval(
            np.array([_difference(groups[higher][seed].right, groups[lower][seed].right) for seed in seeds]),
            measure.weights,
        )
        usd_per_day = points[higher].usd_per_day - points[lower].usd_per_day
        steps.append(
            Step(
                from_budget=lower,
                to_budget=higher,
                usd_per_day=usd_per_day,
                gain=gain,
                gain_per_usd_day=scaled(gain, 1 / usd_per_day) if prices.usd_per_call and usd_per_day > 0 else None,
                gain_per_100_calls=scaled(gain, 100 / calls),
            )
        )
    return steps


def assemble(
    log: Log,
    measure: Measure,
    prices: BacktestPrices,
    finished: Sequence[Finished],
    topics: Sequence[HardTopic],
    recommendation: Recommendation | None,
    *,
    complete: bool,
) -> Backtest:
    """Everything that was found, as one record; at least one run has ended."""
    asked = finished[0].run.ask
    return Backtest(
        log=log.path.name,
        rows=log.rows,
        skipped=log.skipped,
        bad=[{"line": row.line, "why": row.why} for row in log.bad[:_SHOWN_BAD]],
        unusable=log.unusable,
        labels=len(log.label_set),
        days=log.days,
        timed=log.timed,
        per_day=log.per_day,
        spellings=log.spellings,
        off_list=log.off_list,
        untimed_why=_without_line(log.untimed_why),
        has_gold=log.has_gold,
        teacher_score=measure.teacher_score if measure.has_gold else None,
        teacher_usd_per_day=log.rows * prices.usd_per_call / log.days,
        metric=asked.metric,
        target=asked.target,
        prices=prices,
        points=points_of(finished, measure, prices, log.days),
        steps=steps_of(finished, measure, prices, log.days),
        hard_topics=list(topics),
        recommendation=recommendation,
        runs=[one.run for one in sorted(finished, key=lambda one: (one.run.ask.budget, one.run.ask.seed))],
        task=log.task,
        tolerance=log.tolerance,
        agreement=log.agreement,
        proposal=log.proposal,
        complete=complete,
    )


def _without_line(why: str | None) -> str | None:
    """A sentence about a line with the line at its end, as a page tells it."""
    if why is None:
        return None
    line, _, what = why.partition(": ")
    return f"{what} ({line})"


def _by_budget(finished: Iterable[Finished]) -> dict[int, dict[int, Finished]]:
    """Budget -> seed -> run."""
    groups: dict[int, dict[int, Finished]] = {}
    for one in finished:
        groups.setdefault(one.run.ask.budget, {})[one.run.ask.seed] = one
    return groups


def _point(budget: int, group: dict[int, Finished], measure: Measure, prices: BacktestPrices, days: float) -> Point:
    runs = [group[seed].run for seed in sorted(group)]
    calls = float(np.mean([run.calls for run in runs]))
    training_usd = float(np.mean([run.training_cpu_s for run in runs])) / _HOUR_S * prices.usd_per_training_hour
    usd = calls * prices.usd_per_call + training_usd
    teacher = [_difference(group[seed].right, measure.teacher_right) for seed in sorted(group)]
    answered = [run for run in runs if run.answered_agreement is not None]
    return Point(
        budget=budget,
        calls=calls,
        calls_ratio=calls / runs[0].rows,
        usd=usd,
        usd_per_day=usd / days,
        training_usd=training_usd,
        spared=float(np.mean([run.spared for run in runs])),
        unanswered_ratio=float(np.mean([run.unanswered / run.rows for run in runs])),
        score=_share([run.score for run in runs], measure.rows),
        agreement=_share([run.agreement for run in runs], measure.labelled),
        answered_agreement=_share(
            [run.answered_agreement for run in answered], float(np.mean([run.answered_rows for run in answered] or [0]))
        ),
        random_score=_mean([run.random_score for run in runs]),
        oracle_score=_mean([run.oracle_score for run in runs]),
        random_agreement=_mean([run.random_agreement for run in runs]),
        oracle_agreement=_mean([run.oracle_agreement for run in runs]),
        versus_teacher=paired_interval(np.array(teacher), measure.weights),
        suspended_ratio=float(np.mean([run.suspended_rows / run.rows for run in runs])),
        suspended_s=float(np.mean([run.suspended_s for run in runs])),
        runs=len(runs),
        others=_means([run.others for run in runs]),
        measures=_means([run.measures for run in runs]),
    )


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each name over the runs that have it."""
    names = dict.fromkeys(name for one in found for name in one)
    return {name: float(np.mean([one[name] for one in found if name in one])) for name in names}


def _difference(first: Flags, second: Flags) -> Floats:
    return first.astype(np.float64) - second.astype(np.float64)


def _seed_half_width(values: Sequence[float] | Floats) -> float:
    count = len(values)
    if count == 1:
        return 0.0
    return float(stats.t.ppf(1 - _LEVEL / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))


def _share(values: Sequence[float | None], rows: float) -> Interval | None:
    known = [value for value in values if value is not None]
    return mean_interval(known, rows) if known else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def scaled(interval: Interval, factor: float) -> Interval:
    """So many times as much."""
    return Interval(mean=interval.mean * factor, low=interval.low * factor, high=interval.high * factor)
