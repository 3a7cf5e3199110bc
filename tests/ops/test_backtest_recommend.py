"""Which setting is recommended, why, and what it is worth."""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from ops.backtest.findings import Measure
from ops.backtest.recommend import break_even_days, chosen, headline, recommend, settings_toml, share, signed
from ops.backtest.records import BacktestPrices, Interval, Point, Recommendation, Run, Slice
from ops.money.dollars import usd
from ops.sections import BudgetSection, LaneSection, PromiseSection, TrainerSection
from tests.ops.backtests import PRICES, backtest, interval, point, runs
from tests.ops.fake_replay import made_log

FREE = BacktestPrices(usd_per_call=0.0, usd_per_training_hour=0.05)
KNEE = [
    point(100, 0.50, away=-0.20),
    point(300, 0.64, away=-0.06),
    point(600, 0.67, away=-0.03),
    point(900, 0.699, away=-0.001),
]


def a_run(tmp_path: Path, **more: object) -> Run:
    return replace(runs(made_log(tmp_path), budgets=(100,), seeds=1)[0].run, **more)


def recommended(tmp_path: Path, points: list[Point], *, target: float | None = None) -> Recommendation:
    run = a_run(tmp_path)
    asked = [replace(run, ask=replace(run.ask, budget=one.budget, target=target)) for one in points]
    teacher = np.arange(10) < 7  # it is right in seven rows of ten
    measure = Measure(truth=["a"] * 10, weights=np.full(10, 0.1), teacher_right=teacher, labelled=10, has_gold=True)
    return recommend(points, [], asked, measure, PRICES, 1.0)


def test_the_knee_is_where_calls_begin_to_buy_less_than_on_the_whole(tmp_path: Path) -> None:
    found = recommended(tmp_path, KNEE)
    assert found.budget == 300
    assert "knee" in found.why
    assert "900 is the smallest that is surely within one point" in found.why


def test_a_budget_surely_near_the_teacher_needs_no_more_calls_than_the_knee(tmp_path: Path) -> None:
    flat = [point(100, 0.696, away=-0.002), point(300, 0.70, away=0.0), point(600, 0.70, away=0.0)]
    found = recommended(tmp_path, flat)
    assert found.budget == 100
    assert "surely within one point" in found.why


def test_near_by_chance_is_not_surely_near(tmp_path: Path) -> None:
    wide = [point(100, 0.60, away=-0.002, half=0.03), point(300, 0.68, away=0.0, half=0.03)]
    found = recommended(tmp_path, wide)
    assert found.budget == 300
    assert "no budget that was tried is surely within one point" in found.why


def test_one_budget_is_the_recommendation(tmp_path: Path) -> None:
    assert recommended(tmp_path, KNEE[:1]).budget == 100


def test_a_promise_takes_the_smallest_budget_that_never_suspends_it(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"answered_agreement": interval(0.96)}
    points = [
        point(100, 0.5, away=-0.2, suspended_ratio=0.2, **kept),
        point(300, 0.6, away=-0.1, **kept),
        point(600, 0.7, away=0.0, **kept),
    ]
    found = recommended(tmp_path, points, target=0.95)
    assert found.budget == 300
    assert found.target == 0.95


def test_a_promise_that_was_surely_broken_is_not_recommended(tmp_path: Path) -> None:
    points = [point(100, 0.5, away=-0.2, answered_agreement=interval(0.8)), point(300, 0.6, away=-0.1)]
    assert recommended(tmp_path, points, target=0.95).budget == 300


def test_a_promise_that_no_budget_kept_up_says_so(tmp_path: Path) -> None:
    points = [replace(one, suspended_ratio=0.3 - one.budget / 10_000) for one in KNEE]
    found = recommended(tmp_path, points, target=0.95)
    assert found.budget == 900
    assert "suspended for 21.0% of the questions" in found.why


def test_the_saving_is_what_the_teacher_alone_costs_more(tmp_path: Path) -> None:
    found = recommended(tmp_path, KNEE)
    assert found.saved_usd_per_day == pytest.approx(1000 * 0.001 - 0.3)
    assert found.calls_per_day == 300


def test_questions_that_nobody_answers_are_no_saving_and_are_told(tmp_path: Path) -> None:
    found = backtest(tmp_path)
    best = chosen(found)
    assert best is not None
    silent = replace(best, spared=best.spared - 100, unanswered_ratio=0.1)
    assert "10% would get no answer" in headline(replace(found, points=[silent]))
    assert "no answer" not in headline(found)
    saved = [recommended(tmp_path, [point]).saved_usd_per_day for point in (best, silent)]
    assert saved[0] - saved[1] == pytest.approx(100 * PRICES.usd_per_call)


def test_a_promise_is_said_to_be_kept_only_where_it_surely_was(tmp_path: Path) -> None:
    def why(agreement: Interval | None) -> str:
        points = [point(100, 0.5, away=-0.2, answered_agreement=agreement), *KNEE[-1:]]
        return recommended(tmp_path, points, target=0.95).why

    assert "the promise was kept, and was never suspended" in why(interval(0.97))
    assert "the promise may have been kept, and was never suspended" in why(interval(0.945))
    assert "kept" not in why(None)
    assert "the student answered nothing by its own decision" in why(None)


def slices(*calls: int) -> list[Slice]:
    return [
        Slice(
            first_row=100 * place,
            rows=100,
            calls=called,
            spared=100 - called,
            agreement=None,
            accuracy=None,
            suspended=0,
        )
        for place, called in enumerate(calls)
    ]


def test_training_is_paid_for_when_as_much_has_been_saved(tmp_path: Path) -> None:
    run = a_run(tmp_path, rows=400, slices=slices(100, 50, 50, 0))
    assert break_even_days(run, 75.0, 1.0, 4.0) == pytest.approx(2.5)
    assert break_even_days(run, 0.0, 1.0, 4.0) == pytest.approx(1.0)


def test_what_the_log_did_not_pay_for_its_last_half_would(tmp_path: Path) -> None:
    run = a_run(tmp_path, rows=400, slices=slices(100, 100, 50, 50))
    assert break_even_days(run, 120.0, 1.0, 4.0) == pytest.approx(4 + 20 / (50 - 30))
    assert break_even_days(run, 198.0, 1.0, 4.0) == pytest.approx(4 + 98 / 0.5)
    assert break_even_days(run, 200.0, 1.0, 4.0) is None
    assert break_even_days(run, 198.0, 1.0, 40.0) is None


def test_nothing_is_paid_for_by_calls_that_cost_nothing_or_were_all_made(tmp_path: Path) -> None:
    assert break_even_days(a_run(tmp_path), 1.0, 0.0, 1.0) is None
    assert break_even_days(a_run(tmp_path, rows=200, slices=slices(100, 100)), 0.0, 1.0, 1.0) is None


@pytest.mark.parametrize("target", [None, 0.8])
def test_the_settings_are_toml_with_keys_that_exist(target: float | None, tmp_path: Path) -> None:
    found = backtest(tmp_path, target=target, audit_ratio=0.05 if target else 0.0)
    whole = tomllib.loads(settings_toml(found, found.runs[0].ask, "minilm"))
    told = whole["lanes"][0]
    assert TrainerSection(**whole["trainer"]) == TrainerSection(encoder="minilm", fine_tune=True)
    assert found.recommendation is not None
    assert told["policy"] == ("promise" if target else "budget")
    reserve = 0.1 if target else 0.0
    budget = {"calls_per_day": found.recommendation.calls_per_day, "audit_reserve_ratio": reserve}
    assert told.pop("budget") == budget
    assert budget.keys() <= BudgetSection.model_fields.keys()
    assert told["audit_ratio"] == (0.05 if target else 0.0)
    promise = told.pop("promise", None)
    assert promise == ({"target": 0.8, "confidence": 0.95} if target else None)
    assert told.keys() <= LaneSection.model_fields.keys()
    assert {"target", "confidence"} <= PromiseSection.model_fields.keys()


def test_the_headline_answers_what_is_saved_and_what_it_costs(tmp_path: Path) -> None:
    told = headline(backtest(tmp_path))
    assert told == (
        "Asking the teacher 450 of 1,000 questions a day would save $0.55 of $1.00 a day, at 77.8% accuracy,"
        f" {told.split(', ')[-1]}"
    )
    assert re.fullmatch(r"\d+\.\d points below the teacher alone", told.split(", ")[-1])


def test_without_prices_calls_are_saved_and_without_true_labels_agreement_is_told(tmp_path: Path) -> None:
    told = headline(backtest(tmp_path, gold=False, prices=FREE))
    assert "of its calls, at " in told
    assert "% agreement with the teacher" in told
    assert "$" not in told
    assert "accuracy" not in told


def test_a_difference_within_chance_is_told_as_such(tmp_path: Path) -> None:
    told = headline(backtest(tmp_path, budgets=(850,)))
    assert "about as good as the teacher alone" in told


def test_numbers_for_people() -> None:
    assert share(interval(0.5)) == "50.0% [49.0, 51.0]"
    assert signed(interval(-0.05)) == "-5.0 [-6.0, -4.0]"
    assert share(None) == signed(None) == "-"
    assert [usd(value) for value in (0, 0.00012, 0.029, 12.345, 12345.6, -3)] == [
        "$0.00", "$0.00012", "$0.029", "$12.35", "$12,345.60", "-$3.00",
    ]  # fmt: skip
