"""A budget that comes back all the time: nearly all spent, never exceeded, and spread over the day."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from serve.routing.horizon import DayHorizon, Traffic
from serve.settings import BudgetSettings
from tests.serve.spending import CALLS, DAY_S, FOR_ESCALATIONS, START_S, Clock, Lane, simulate


@dataclass
class Purse:
    """What is said to be used."""

    used_calls: int = 0
    used_usd_micro: int = 0


def steady(_: float) -> float:
    return 1600.0


def doubled(day: float) -> float:
    return 1600.0 if day < 2.5 else 3200.0


def halved(day: float) -> float:
    return 3200.0 if day < 2.5 else 1600.0


def nightly(day: float) -> float:
    return 1600.0 * (1.0 + 0.8 * math.sin(2 * math.pi * day))


@pytest.mark.parametrize("traffic", [steady, doubled, halved])
def test_the_budget_is_nearly_all_spent_never_exceeded_and_spread_over_the_day(
    traffic: Callable[[float], float],
) -> None:
    spent = simulate(5, traffic, Lane())
    assert spent.most_in_any_day() <= CALLS
    each_day = spent.quarters().sum(axis=1)
    assert (each_day <= FOR_ESCALATIONS).all()
    assert (each_day >= 0.9 * FOR_ESCALATIONS).all(), each_day
    assert (spent.quarters()[2:] <= 0.4 * FOR_ESCALATIONS).all(), spent.quarters()
    hours = np.histogram(spent.escalations, np.arange(2 * 24, 5 * 24 + 1) / 24)[0]
    assert hours.max() <= 3 * FOR_ESCALATIONS / 24, "a burst"
    assert len(spent.refused) <= 0.02 * len(spent.escalations)


def test_a_lane_buys_the_same_share_of_its_questions_at_night_and_at_noon() -> None:
    rows = np.array([[1600 * (0.25 + 0.8 * sign / (2 * math.pi)) for sign in (1, 1, -1, -1)]])
    shares = simulate(5, nightly, Lane()).quarters()[2:] / rows
    even = FOR_ESCALATIONS / 1600
    assert (shares.mean(axis=0) > 0.5 * even).all(), shares
    assert (shares.mean(axis=0) < 1.5 * even).all(), shares


def test_a_restart_starts_no_new_first_day() -> None:
    spent = simulate(4, steady, Lane(restart_at=2.6))
    each_day = spent.quarters().sum(axis=1)
    assert (each_day >= 0.9 * FOR_ESCALATIONS).all(), each_day
    assert spent.most_in_any_day() <= CALLS


@pytest.mark.parametrize(("told", "least"), [(1600.0, 0.9), (800.0, 0.9), (3200.0, 0.7)])
def test_replicas_that_know_the_lanes_traffic_share_its_budget(told: float, least: float) -> None:
    spent = simulate(4, steady, Lane(told=told, replicas=3))
    assert spent.most_in_any_day() <= CALLS
    each_day = spent.quarters().sum(axis=1)
    assert (each_day[1:] >= least * FOR_ESCALATIONS).all(), each_day


def test_audits_are_paid_first_and_planned_for() -> None:
    spent = simulate(4, steady, Lane(audit_ratio=0.05))
    assert spent.most_in_any_day() <= CALLS
    assert len(spent.audits) / 4 == pytest.approx(0.05 * (1600 - 325), rel=0.25)
    assert len(spent.escalations) + len(spent.audits) >= 0.93 * 4 * CALLS
    assert len(spent.refused) <= 0.02 * len(spent.escalations)


def horizon(
    purse: Purse,
    clock: Clock,
    *,
    rows: float | None = 4000.0,
    audit_ratio: float = 0.0,
    usd: float | None = None,
    reserve: float = 0.0,
) -> DayHorizon:
    limits = BudgetSettings(calls_per_day=1000, usd_per_day=usd, audit_reserve_ratio=reserve)
    made = DayHorizon(limits, purse, audit_ratio=audit_ratio, rows_per_day=rows, monotonic=clock)
    made.ledger_answered()
    return made


def test_the_first_day_is_planned_to_its_end() -> None:
    purse, clock = Purse(), Clock()
    made = horizon(purse, clock)
    first = made.allowance()
    assert (first.calls_left, first.rows_left, first.bought) == (1000, 4000.0, 0)
    assert first.outright
    clock.now_s += DAY_S / 2
    purse.used_calls = 600
    noon = made.allowance()
    assert (noon.calls_left, noon.rows_left, noon.bought) == (400, 2000.0, 600)
    assert noon.exponent < 1.0


def test_calls_that_are_left_at_the_end_of_the_first_day_are_not_bought_in_a_burst() -> None:
    purse, clock = Purse(), Clock()
    made = horizon(purse, clock)
    made.allowance()
    clock.now_s += DAY_S - 60.0
    purse.used_calls = 700
    late = made.allowance()
    assert late.calls_left == 300
    assert late.calls_left / late.rows_left < 0.3


def test_later_days_are_planned_evenly_around_what_is_in_use() -> None:
    purse, clock = Purse(used_calls=980), Clock()
    made = horizon(purse, clock)
    even = made.allowance()
    assert (even.calls_left, even.rows_left, even.exponent) == (1000, 4000.0, 1.0)
    purse.used_calls = 900
    assert 1000 < made.allowance().calls_left < 2000
    purse.used_calls = 0
    assert made.allowance().calls_left == 2000
    assert not made.allowance().outright
    purse.used_calls = 990
    assert made.allowance().calls_left == 500


def test_a_budget_that_is_used_up_buys_again_with_the_first_call_that_comes_back() -> None:
    purse, clock = Purse(used_calls=1000), Clock()
    made = horizon(purse, clock)
    assert made.allowance().calls_left == 0
    purse.used_calls = 999
    assert made.allowance().calls_left > 0


def test_the_first_day_ends_after_a_day_and_a_lane_that_spent_before_has_none() -> None:
    purse, clock = Purse(), Clock()
    made = horizon(purse, clock)
    made.allowance()
    clock.now_s += DAY_S
    assert made.allowance().exponent == 1.0
    assert horizon(Purse(used_calls=300), Clock()).allowance().exponent == 1.0


def test_dollars_that_bind_first_are_planned_as_the_calls_they_buy() -> None:
    purse, clock = Purse(used_calls=490, used_usd_micro=4_900_000), Clock()
    made = horizon(purse, clock, usd=5.0)
    assert made.allowance().calls_left == 500  # a cent each, and 98 % in use
    assert horizon(Purse(used_calls=490), clock, usd=5.0).allowance().calls_left == 2000


def test_escalations_are_planned_without_what_audits_keep_or_will_take() -> None:
    assert horizon(Purse(), Clock(), reserve=0.1).allowance().calls_left == 900
    assert horizon(Purse(), Clock(), reserve=0.1, audit_ratio=0.1).allowance().calls_left == 700
    assert horizon(Purse(used_calls=980), Clock(), reserve=0.1, audit_ratio=0.1).allowance().calls_left == 700
    assert horizon(Purse(used_calls=980), Clock(), audit_ratio=0.9).allowance().calls_left == 0


def test_a_budget_of_nothing_buys_nothing() -> None:
    limits = BudgetSettings(calls_per_day=0, usd_per_day=0.0)
    made = DayHorizon(limits, Purse(), audit_ratio=0.05, rows_per_day=None, monotonic=Clock())
    made.ledger_answered()
    assert made.allowance().calls_left == 0


def test_traffic_is_extrapolated_for_a_day_and_counted_afterwards() -> None:
    traffic = Traffic()
    for minute in range(2 * 1440):
        traffic.add(START_S + 60.0 * minute)
        if minute >= 30:
            assert traffic.rows_per_day(START_S + 60.0 * minute) == pytest.approx(1440, rel=0.05)
    assert len(traffic._buckets) <= 288


def test_a_busy_hour_after_a_quiet_day_counts_at_once() -> None:
    traffic = Traffic()
    for hour in range(48):
        traffic.add(START_S + 3600.0 * hour)
    for second in range(3600):
        traffic.add(START_S + 48 * 3600.0 + second)
    assert traffic.rows_per_day(START_S + 49 * 3600.0 - 1) > 24_000
