"""What runs come to: means with honest intervals, differences that are paired, prices."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.backtest.findings import Measure, assemble, mean_interval, measure_of, paired_interval, points_of, steps_of
from ops.backtest.records import BacktestPrices
from ops.backtest.tasks.texts import ColumnNames, read_log
from tests.ops.backtests import PRICES, runs
from tests.ops.fake_replay import LABELS, made_log
from trainer.judge.intervals import wilson

SHARES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6)


@given(values=SHARES, rows=st.floats(10, 1e5))
def test_an_interval_holds_its_mean_and_stays_a_share(values: list[float], rows: float) -> None:
    found = mean_interval(values, rows)
    assert 0.0 <= found.low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= found.high <= 1.0


def test_one_seed_alone_knows_of_the_rows_only() -> None:
    found = mean_interval([0.7], 500)
    assert (found.low, found.high) == pytest.approx(wilson(350, 500))


def test_more_seeds_do_not_make_the_rows_more() -> None:
    assert mean_interval([0.7] * 5, 500) == mean_interval([0.7], 500)


def test_seeds_that_differ_widen_the_interval() -> None:
    same, apart = mean_interval([0.7, 0.7, 0.7], 500), mean_interval([0.66, 0.7, 0.74], 500)
    assert apart.low < same.low
    assert apart.high > same.high


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        rows = rng.random(600)  # the same rows for each seed: a row is right if its luck is below the seed's skill
        values = [float((rows < skill).mean()) for skill in rng.normal(0.7, 0.02, 4)]
        found = mean_interval(values, 600)
        held += found.low <= 0.7 <= found.high
    assert 0.93 <= held / 400 <= 0.995


def test_paired_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(1), 0
    weights = np.full(800, 1 / 800)
    for _ in range(400):
        first = rng.random(800) < 0.8
        flipped = np.where(rng.random((3, 800)) < 0.05, rng.random((3, 800)) < 0.3, first)
        found = paired_interval(flipped.astype(float) - first, weights)
        held += found.low <= 0.05 * (0.3 - 0.8) <= found.high
    assert 0.93 <= held / 400 <= 0.999


def test_pairing_makes_a_difference_sharper_than_two_scores_are(tmp_path: Path) -> None:
    log = made_log(tmp_path)
    measure = measure_of(log, "accuracy")
    low, high = points_of(runs(log, budgets=(450, 850), seeds=1), measure, PRICES, log.days)
    step = steps_of(runs(log, budgets=(450, 850), seeds=1), measure, PRICES, log.days)[0]
    assert low.score is not None
    assert high.score is not None
    assert step.gain.mean == pytest.approx(high.score.mean - low.score.mean)
    assert step.gain.high - step.gain.low < (high.score.high - high.score.low)


def test_two_settings_that_answer_alike_are_not_surely_alike() -> None:
    found = paired_interval(np.zeros((1, 100)), np.full(100, 0.01))
    assert found.low < 0 < found.high
    assert found.high < 0.05


def test_a_difference_turns_round_with_its_sides() -> None:
    differences = np.sign(np.random.default_rng(2).normal(0.3, 1, (3, 200)))
    there, back = (paired_interval(sign * differences, np.full(200, 1 / 200)) for sign in (1, -1))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@pytest.mark.parametrize("gold", [True, False])
def test_the_measure_says_of_a_run_what_the_run_says_of_itself(gold: bool, tmp_path: Path) -> None:  # noqa: FBT001
    log = made_log(tmp_path, gold=gold)
    measure = measure_of(log, "accuracy")
    for one in runs(log, budgets=(200,), shuffled=True):
        said = one.run.score if gold else one.run.agreement
        assert measure.weights @ one.right == pytest.approx(said)


def test_balanced_accuracy_counts_each_true_label_alike(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [("a", "a")] * 90 + [("b", "b")] * 5 + [("b", "a")] * 5
    path.write_text(
        "".join(f'{{"text": "t{n}", "label": "{said}", "gold": "{true}"}}\n' for n, (true, said) in enumerate(rows))
    )
    measure = measure_of(read_log(path, ColumnNames(), 1.0), "balanced_accuracy")
    assert measure.teacher_score == pytest.approx((1.0 + 0.5) / 2)
    assert measure.rows == pytest.approx(4 / (1 / 90 + 1 / 10))


def test_without_true_labels_the_teacher_is_the_measure(tmp_path: Path) -> None:
    log = made_log(tmp_path, gold=False)
    measure = measure_of(log, "accuracy")
    assert not measure.has_gold
    assert measure.teacher_score == pytest.approx(1.0)
    assert measure.labelled == 980
    found = points_of(runs(log, budgets=(200,)), measure, PRICES, log.days)[0]
    assert found.score is None
    assert found.agreement is not None
    assert found.versus_teacher is not None
    assert found.versus_teacher.mean == pytest.approx(found.agreement.mean - 1)


def test_points_come_in_the_order_of_their_budgets_with_their_costs(tmp_path: Path) -> None:
    log = made_log(tmp_path, days=2.0)
    found = points_of(runs(log, budgets=(200, 50)), measure_of(log, "accuracy"), PRICES, 2.0)
    assert [one.budget for one in found] == [50, 200]
    training = (20.0 + 200 / 50) / 3600 * 0.05
    assert found[1].training_usd == pytest.approx(training)
    assert found[1].usd == pytest.approx(0.2 + training)
    assert found[1].usd_per_day == pytest.approx(found[1].usd / 2)
    assert found[1].runs == 3


def test_a_step_is_priced_by_what_it_costs_more(tmp_path: Path) -> None:
    log = made_log(tmp_path)
    found = runs(log, budgets=(50, 200))
    step = steps_of(found, measure_of(log, "accuracy"), PRICES, log.days)[0]
    assert step.gain_per_usd_day is not None
    assert step.gain_per_usd_day.mean == pytest.approx(step.gain.mean / step.usd_per_day)
    assert step.gain_per_100_calls.low == pytest.approx(step.gain.low / 1.5)
    free = steps_of(
        found, measure_of(log, "accuracy"), BacktestPrices(usd_per_call=0, usd_per_training_hour=0.05), log.days
    )
    assert free[0].gain_per_usd_day is None


def test_a_step_pairs_the_seeds_that_both_budgets_have(tmp_path: Path) -> None:
    log = made_log(tmp_path)
    measure, found = measure_of(log, "accuracy"), runs(log, budgets=(50, 200))
    unlike = [one for one in found if one.run.ask.budget == 50 or one.run.ask.seed == 1]
    pairs = [one for one in found if one.run.ask.seed == 1]
    assert steps_of(unlike, measure, PRICES, 1.0)[0].gain == steps_of(pairs, measure, PRICES, 1.0)[0].gain
    strangers = [one for one in found if one.run.ask.seed == (0 if one.run.ask.budget == 50 else 1)]
    assert steps_of(strangers, measure, PRICES, 1.0) == []


def test_no_step_leads_to_a_budget_that_was_not_needed(tmp_path: Path) -> None:
    log = made_log(tmp_path)
    found = runs(log, budgets=(100, 200, 450), target=0.8, binds_below=200)
    steps = steps_of(found, measure_of(log, "accuracy"), PRICES, log.days)
    assert [(one.from_budget, one.to_budget) for one in steps] == [(100, 200)]


def test_what_was_found_is_json_and_says_whether_it_is_whole(tmp_path: Path) -> None:
    log = made_log(tmp_path)
    with log.path.open("a") as file:
        file.write("no json\n" * 25)
    log = read_log(log.path, ColumnNames(), 1.0)
    found = assemble(log, measure_of(log, "accuracy"), PRICES, runs(log), [], None, complete=False)
    told = msgspec.json.decode(msgspec.json.encode(found))
    assert told["complete"] is False
    assert (told["skipped"], len(told["bad"])) == (25, 20)
    assert (told["rows"], told["labels"], told["unusable"]) == (1000, len(LABELS), 20)
    assert [(run["ask"]["budget"], run["ask"]["seed"]) for run in told["runs"][:4]] == [
        (50, 0),
        (50, 1),
        (50, 2),
        (100, 0),
    ]


def test_rows_without_anything_to_compare_with_count_for_nothing() -> None:
    measure = Measure(
        truth=["a", None, "b"],
        weights=np.array([0.5, 0, 0.5]),
        teacher_right=np.array([True, False, False]),
        labelled=3,
        has_gold=True,
    )
    assert measure.teacher_score == 0.5
    assert measure.rows == pytest.approx(2)
