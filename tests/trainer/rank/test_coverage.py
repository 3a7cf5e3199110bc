"""The promise of a ranking lane on simulated teachers with known truth: broken no more often than is stated."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from store.student.rank.head import confidence
from store.tasks.measures import best_first
from store.tasks.rank import Tolerance, agree
from trainer.judge.calibrate import calibrate, uncertified
from trainer.judge.scored import Scored

STREAMS = 200
TARGET, CONFIDENCE = 0.9, 0.95
LISTS, DOCUMENTS = 6_000, 8
CALIBRATION = 400
AUDITED = 0.1
MOST_BROKEN = int(stats.binom.ppf(0.95, STREAMS, 1 - CONFIDENCE))

Floats = npt.NDArray[np.float64]


def population(tolerance: Tolerance, sigma_ratio: float, seed: int) -> tuple[Floats, Floats]:
    """Confidence and agreement of a student on many lists of a noisy teacher, whose noise it takes for another."""
    rng = np.random.default_rng(seed)
    keys = tuple(f"{place}" for place in range(DOCUMENTS))
    sure, right = np.empty(LISTS), np.empty(LISTS)
    for row in range(LISTS):
        said = rng.normal(0.0, 0.18, DOCUMENTS)
        noise = 0.05 * rng.lognormal(0.0, 0.5)  # some questions are harder than others
        teacher = said + rng.normal(0.0, noise, DOCUMENTS)
        sure[row] = confidence(said, sigma_ratio * 0.05, tolerance)
        right[row] = agree(teacher, best_first(said, keys), tolerance)
    return sure, right


@pytest.mark.parametrize(
    ("tolerance", "sigma_ratio", "audited"),
    [
        (Tolerance(k=1, epsilon=0.05), 1.0, False),
        (Tolerance(k=1, epsilon=0.05), 0.4, True),
        (Tolerance(k=3, epsilon=0.05), 2.5, False),
    ],
)
def test_a_certified_threshold_keeps_its_promise_at_the_stated_rate(
    tolerance: Tolerance,
    sigma_ratio: float,
    audited: bool,  # noqa: FBT001
) -> None:
    sure, right = population(tolerance, sigma_ratio, seed=5)
    certified = broken = 0
    for stream in range(STREAMS):
        rng = np.random.default_rng(1000 + stream)
        drawn = rng.integers(LISTS, size=CALIBRATION * (4 if audited else 1))
        weight = np.ones(len(drawn))
        if audited:  # what is confident is paid for one time in ten, and stands for ten
            confident = sure[drawn] >= 0.9
            kept = ~confident | (rng.random(len(drawn)) < AUDITED)
            weight = np.where(confident, 1 / AUDITED, 1.0)[kept]
            drawn = drawn[kept]
        scored = Scored(
            confidence=sure[drawn],
            novelty=np.zeros(len(drawn)),
            agreed=right[drawn],
            weight=weight,
            cluster=np.arange(len(drawn)),
        )
        policy = calibrate(scored, uncertified(TARGET, CONFIDENCE), seed=stream)
        if policy.threshold is not None:
            certified += 1
            broken += right[sure >= policy.threshold].mean() < TARGET
    assert broken <= MOST_BROKEN, f"{broken} of {STREAMS}"
    assert certified >= STREAMS / 10  # a promise that is never made is easily kept


def test_a_row_with_several_answers_is_one_trial_with_its_share_as_the_chance() -> None:
    """Half of a teacher's answers agree with each row: no threshold can promise nine in ten."""
    found = 0
    for stream in range(STREAMS):
        scored = Scored(
            confidence=np.random.default_rng(stream).random(300),
            novelty=np.zeros(300),
            agreed=np.full(300, TARGET - 1e-9),
            weight=np.ones(300),
            cluster=np.arange(300),
        )
        found += calibrate(scored, uncertified(TARGET, CONFIDENCE), seed=stream).threshold is not None
    assert found <= MOST_BROKEN
