"""Backtests made of fake runs, for the tests of what is made of them."""

from pathlib import Path
from typing import Any

from ops.backtest.findings import Finished, assemble, measure_of, points_of, steps_of
from ops.backtest.log import Log
from ops.backtest.recommend import recommend
from ops.backtest.records import Ask, Backtest, BacktestPrices, HardTopic, Interval, Point
from store.policy import Metric
from tests.ops.fake_replay import made_log, replayed

BUDGETS = (50, 100, 200, 450, 850)
PRICES = BacktestPrices(usd_per_call=0.001, usd_per_training_hour=0.05)
TOPICS = [
    HardTopic(name="late <parcel>", rows=120, escalated_ratio=0.6, agreement=0.61),
    HardTopic(name="second factor", rows=40, escalated_ratio=0.4, agreement=None),
]


def runs(
    log: Log, *, budgets: tuple[int, ...] = BUDGETS, seeds: int = 3, metric: Metric = "accuracy", **more: Any
) -> list[Finished]:
    """A run for each budget and seed."""
    measure, binds_below = measure_of(log, metric), more.pop("binds_below", 0)
    found = []
    for budget in budgets:
        for seed in range(seeds):
            run, answers = replayed(log, Ask(budget=budget, seed=seed, metric=metric, **more), binds_below)
            found.append(Finished(run=run, right=measure.right(answers)))
    return found


def backtest(
    folder: Path, *, gold: bool = True, prices: BacktestPrices = PRICES, complete: bool = True, **more: Any
) -> Backtest:
    """A whole backtest; its log is written into the folder."""
    log = made_log(folder, gold=gold)
    found = runs(log, **more)
    measure = measure_of(log, "accuracy")
    points, steps = points_of(found, measure, prices, log.days), steps_of(found, measure, prices, log.days)
    best = recommend(points, steps, [one.run for one in found], measure, prices, log.days)
    return assemble(log, measure, prices, found, TOPICS, best, complete=complete)


def interval(mean: float, half: float = 0.01) -> Interval:
    """An interval around a mean."""
    return Interval(mean=mean, low=mean - half, high=mean + half)


def point(budget: int, score: float, *, away: float, half: float = 0.005, **more: Any) -> Point:
    """A point of a curve; `away` from the teacher, give or take `half`."""
    values: dict[str, Any] = {
        "calls": float(budget),
        "calls_ratio": budget / 1000,
        "usd": budget / 1000,
        "usd_per_day": budget / 1000,
        "training_usd": 0.0,
        "spared": 1000.0 - budget,
        "unanswered_ratio": 0.0,
        "agreement": interval(score),
        "answered_agreement": None,
        "random_score": None,
        "oracle_score": None,
        "random_agreement": None,
        "oracle_agreement": None,
        "suspended_ratio": 0.0,
        "suspended_s": 0.0,
        "runs": 3,
    }
    away_by = interval(away, half)
    return Point(**(values | {"budget": budget, "score": interval(score), "versus_teacher": away_by} | more))
