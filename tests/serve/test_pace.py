"""What a budget-only lane remembers: bounded, trimmed by a swap, and balanced as a naive computation has it."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists

from serve.pace import PRIOR_ROWS, RECENT, RECENT_AFTER_SWAP, Metric, Pace

SMALLEST_SHARE = 1e-4
WEIGHTS = lists(floats(0.01, 1.0), min_size=2, max_size=6)


def distribution(weights: Sequence[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def rows_of(labels: int, count: int, seed: int) -> list[list[float]]:
    """Random distributions in which the first label is frequent and the last one rare."""
    shares = np.linspace(3.0, 0.2, labels)
    found: list[list[float]] = np.random.default_rng(seed).dirichlet(shares, count).tolist()
    return found


def naive(seen: Sequence[Sequence[float]]) -> list[float]:
    """The last row divided by the mean, of each label, over the last rows that knew it."""
    window, last = seen[-PRIOR_ROWS:], seen[-1]
    knew = [[row[label] for row in window if len(row) > label] for label in range(len(last))]
    divided = [p / max(sum(ps) / len(ps), SMALLEST_SHARE) for p, ps in zip(last, knew, strict=True)]
    return [value / sum(divided) for value in divided]


def test_accuracy_takes_the_student_at_its_word() -> None:
    look = Pace("accuracy").see([0.2, 0.5, 0.3], "a")
    assert (look.place, look.confidence) == (1, 0.5)
    assert look.uncertainty == pytest.approx(1.0 - 0.2)


@given(weights=lists(WEIGHTS, min_size=1, max_size=20))
def test_uncertainty_and_confidence_are_shares_whatever_the_metric(weights: list[list[float]]) -> None:
    metrics: tuple[Metric, ...] = ("accuracy", "balanced_accuracy")
    for metric in metrics:
        pace = Pace(metric)
        for row in weights:
            look = pace.see(distribution(row), "a")
            assert -1e-9 <= look.uncertainty <= 1.0
            assert 1 / len(row) - 1e-9 <= look.confidence <= 1.0
            assert 0 <= look.place < len(row)
            assert pace.recent[-1] == look.uncertainty


def test_what_is_remembered_is_bounded() -> None:
    pace = Pace("balanced_accuracy")
    for row in rows_of(3, PRIOR_ROWS + 700, seed=1):
        pace.see(row, "a")
    assert len(pace.recent) == RECENT
    assert len(pace._said) == PRIOR_ROWS


def test_a_swap_keeps_the_last_fifty_and_goes_on() -> None:
    pace = Pace("accuracy")
    looks = [pace.see(row, "a").uncertainty for row in rows_of(3, 230, seed=2)]
    assert list(pace.recent) == looks[-RECENT:]
    new = pace.see([0.6, 0.4, 0.0], "b").uncertainty
    assert list(pace.recent) == [*looks[-RECENT_AFTER_SWAP:], new]
    for row in rows_of(3, RECENT, seed=3):
        pace.see(row, "b")
    assert len(pace.recent) == RECENT


@pytest.mark.parametrize("labels", [2, 5])
def test_balanced_accuracy_is_the_naive_computation_over_the_window(labels: int) -> None:
    pace, seen = Pace("balanced_accuracy"), list[list[float]]()
    for number, row in enumerate(rows_of(labels, PRIOR_ROWS + 300, seed=labels)):
        seen.append(row)
        look = pace.see(row, "a")
        if number % 50 == 0:
            expected = naive(seen)
            low, high = sorted(expected)[-2:]
            assert look.place == expected.index(high)
            assert (look.confidence, look.uncertainty) == pytest.approx((high, 1 - (high - low)), abs=1e-9)


def test_balanced_accuracy_prefers_a_rare_label_that_accuracy_would_not() -> None:
    pace = Pace("balanced_accuracy")
    for _ in range(200):
        pace.see([0.95, 0.05], "a")
    assert pace.see([0.6, 0.4], "a").place == 1
    assert Pace("accuracy").see([0.6, 0.4], "a").place == 0


@given(before=integers(1, 60), after=integers(1, 60), seed=integers(0, 1000))
def test_a_label_map_that_grows_divides_by_the_rows_that_knew_the_label(before: int, after: int, seed: int) -> None:
    pace, old, new = Pace("balanced_accuracy"), rows_of(2, before, seed), rows_of(4, after, seed + 1)
    for row in old:
        pace.see(row, "a")
    looks = [pace.see(row, "b") for row in new]
    assert looks[-1].confidence == pytest.approx(max(naive([*old, *new])), abs=1e-9)


def test_a_new_label_does_not_win_everything_because_it_was_never_said_before() -> None:
    pace = Pace("balanced_accuracy")
    for _ in range(PRIOR_ROWS):
        pace.see([0.5, 0.5], "a")
    for _ in range(20):
        assert pace.see([0.8, 0.15, 0.05], "b").place == 0
    for _ in range(PRIOR_ROWS):
        pace.see([0.8, 0.15, 0.05], "b")
    assert pace._rows.tolist() == [PRIOR_ROWS] * 3
