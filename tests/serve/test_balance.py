"""Balanced accuracy: bounded in what it remembers, and balanced as a naive computation has it."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists

from serve.tasks.balance import PRIOR_ROWS, Balance
from store.student.loaded import LabelOpinion

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


def weigh(balance: Balance, probs: Sequence[float]) -> LabelOpinion:
    return balance.weigh(
        LabelOpinion(
            output="",
            confidence=0.0,
            uncertainty=0.0,
            novelty=0.0,
            members=[],
            probs=list(probs),
            labels=tuple(map(str, range(len(probs)))),
        )
    )


@given(weights=lists(WEIGHTS, min_size=1, max_size=20))
def test_uncertainty_and_confidence_are_shares(weights: list[list[float]]) -> None:
    balance = Balance()
    for row in weights:
        look = weigh(balance, distribution(row))
        assert -1e-9 <= look.uncertainty <= 1.0
        assert 1 / len(row) - 1e-9 <= look.confidence <= 1.0
        assert 0 <= int(look.output) < len(row)
        assert look.probs == distribution(row)


def test_what_is_remembered_is_bounded() -> None:
    balance = Balance()
    for row in rows_of(3, PRIOR_ROWS + 700, seed=1):
        weigh(balance, row)
    assert len(balance._said) == PRIOR_ROWS


@pytest.mark.parametrize("labels", [2, 5])
def test_balanced_accuracy_is_the_naive_computation_over_the_window(labels: int) -> None:
    balance, seen = Balance(), list[list[float]]()
    for number, row in enumerate(rows_of(labels, PRIOR_ROWS + 300, seed=labels)):
        seen.append(row)
        look = weigh(balance, row)
        if number % 50 == 0:
            expected = naive(seen)
            low, high = sorted(expected)[-2:]
            assert int(look.output) == expected.index(high)
            assert (look.confidence, look.uncertainty) == pytest.approx((high, 1 - (high - low)), abs=1e-9)


def test_balanced_accuracy_prefers_a_rare_label_that_accuracy_would_not() -> None:
    balance = Balance()
    for _ in range(200):
        weigh(balance, [0.95, 0.05])
    assert weigh(balance, [0.6, 0.4]).output == "1"


@given(before=integers(1, 60), after=integers(1, 60), seed=integers(0, 1000))
def test_a_label_map_that_grows_divides_by_the_rows_that_knew_the_label(before: int, after: int, seed: int) -> None:
    balance, old, new = Balance(), rows_of(2, before, seed), rows_of(4, after, seed + 1)
    for row in old:
        weigh(balance, row)
    looks = [weigh(balance, row) for row in new]
    assert looks[-1].confidence == pytest.approx(max(naive([*old, *new])), abs=1e-9)


def test_a_new_label_does_not_win_everything_because_it_was_never_said_before() -> None:
    balance = Balance()
    for _ in range(PRIOR_ROWS):
        weigh(balance, [0.5, 0.5])
    for _ in range(20):
        assert weigh(balance, [0.8, 0.15, 0.05]).output == "0"
    for _ in range(PRIOR_ROWS):
        weigh(balance, [0.8, 0.15, 0.05])
    assert balance._rows.tolist() == [PRIOR_ROWS] * 3
