"""When to trust an answer: learned from outcomes, and no surer than they are."""

import numpy as np
import pytest

from store.student.chat.trust import SIGNALS
from trainer.learn.chat.head import Outcomes, constant, deciding_tokens, fit_confidence

RNG = np.random.default_rng(0)


def outcomes(count: int, weight: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None) -> Outcomes:
    """Answers that agree the oftener the less they are doubted; the other signals say nothing."""
    signals = np.column_stack([RNG.normal(-3.0, 2.0, count), *(RNG.random(count) for _ in SIGNALS[1:])])
    chance = 1.0 / (1.0 + np.exp(-(signals[:, 0] + 3.0)))
    return Outcomes(
        signals=signals,
        agreed=(RNG.random(count) < chance).astype(np.float64),
        weight=np.ones(count) if weight is None else weight,
    )


def test_the_chances_are_those_of_the_outcomes() -> None:
    confidence = fit_confidence(outcomes(4000))
    new = outcomes(4000)
    said = confidence.of(new.signals)
    for low in (0.1, 0.3, 0.5, 0.7):
        some = (said >= low) & (said < low + 0.2)
        assert new.agreed[some].mean() == pytest.approx(said[some].mean(), abs=0.06)


def test_an_outcome_that_stands_for_many_counts_as_many() -> None:
    one = outcomes(300, weight=np.where(np.arange(300) < 20, 5.0, 1.0))
    heavy = fit_confidence(one)
    times = np.where(np.arange(300) < 20, 5, 1)
    repeated = fit_confidence(
        Outcomes(
            signals=np.repeat(one.signals, times, axis=0),
            agreed=np.repeat(one.agreed, times),
            weight=np.ones(int(times.sum())),
        )
    )
    assert heavy.of(one.signals) == pytest.approx(repeated.of(one.signals), abs=0.02)


@pytest.mark.parametrize(("agreed", "low", "high"), [(1.0, 0.9, 1.0), (0.0, 0.0, 0.1)])
def test_where_all_agreed_or_none_did_it_is_a_constant_short_of_certainty(
    agreed: float, low: float, high: float
) -> None:
    one = outcomes(20)
    said = fit_confidence(Outcomes(signals=one.signals, agreed=np.full(20, agreed), weight=one.weight)).of(one.signals)
    assert np.ptp(said) == 0
    assert low < said[0] < high
    assert constant(0.25, 4).of(np.zeros((1, 4))) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("answers", "tokens"),
    [
        ([[1, 2, 3, 9], [1, 2, 4, 9], [1, 2, 5, 9]], 5),
        ([[1, 2, 3, 9]] * 9 + [[7, 9]], 7),  # one of ten does not begin so
        ([[1, 2, 3, 9]] * 8 + [[7, 9]] * 2, 3),
        ([[1], [2]], 3),
        ([], 3),
    ],
)
def test_tokens_decide_after_what_answers_begin_with_alike(answers: list[list[int]], tokens: int) -> None:
    assert deciding_tokens(answers) == tokens
