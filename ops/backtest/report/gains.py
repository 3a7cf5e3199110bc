"""What one more call, or dollar, buys from each budget to the next; what luck or an oracle would have made."""

import math
from collections.abc import Callable

import numpy as np

from ops.backtest.findings import scaled
from ops.backtest.records import Backtest, Interval, Point, Step
from ops.backtest.report.words import span


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
