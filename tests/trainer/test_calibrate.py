"""Calibration: a threshold is rarely certified that should not be, and often one that should."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from tests.trainer.labelled import policy_of as calibrated
from trainer.judge.calibrate import evened, rows_to_certify
from trainer.learn.classify.temper import UNKNOWN_LABEL, fit_temperature, index_of, start_of

TARGET, CONFIDENCE = 0.9, 0.9
AUDIT = 1 / 0.15

Rows = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]


def two_labels(confident: npt.NDArray[np.float64], agreed: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Probabilities whose largest is `confident`, for label 0; the teacher says 0 where agreed, else 1."""
    assert len(confident) == len(agreed)
    return np.stack([confident, 1 - confident], axis=1)


def simulated(
    rng: np.random.Generator, rows: int, truth: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> Rows:
    confident = 0.5 + 0.499 * rng.random(rows)
    agreed = rng.random(rows) < truth
    return two_labels(confident, agreed), np.where(agreed, 0, 1), weights, rng.random(rows)


@pytest.mark.parametrize(
    ("count", "weighted", "temperature"), [(160, False, None), (160, True, 1.0), (700, False, 1.0), (500, True, None)]
)
def test_at_the_boundary_a_promise_is_broken_no_more_often_than_allowed(
    count: int,
    weighted: bool,  # noqa: FBT001
    temperature: float | None,
) -> None:
    rng = np.random.default_rng(17)
    broken = 0
    for trial in range(1000):
        truth = np.full(count, TARGET - 1e-9)  # every threshold is just below the target: any certificate is wrong
        weights = np.ones(count)
        if weighted:  # audits agree more often than escalations, and count for more
            audited = rng.random(count) < 0.4
            weights = np.where(audited, AUDIT, 1.0)
            share = 0.4 * AUDIT / (0.4 * AUDIT + 0.6)
            truth = np.where(audited, 0.92, (TARGET - 1e-9 - 0.92 * share) / (1 - share))
        rows = simulated(rng, count, truth, weights)
        policy = calibrated(*rows, target=TARGET, confidence=CONFIDENCE, seed=trial, temperature=temperature)
        broken += policy.threshold is not None
    assert broken / 1000 <= 1 - CONFIDENCE + 0.019  # two standard errors


def test_where_strict_thresholds_hold_and_lenient_ones_do_not_the_lenient_are_rarely_certified() -> None:
    rng = np.random.default_rng(23)
    wrong = certified = 0
    for trial in range(400):
        confident = 0.5 + 0.499 * rng.random(300)
        agreed = rng.random(300) < np.where(confident > 0.75, 0.98, 0.5)
        policy = calibrated(
            two_labels(confident, agreed),
            np.where(agreed, 0, 1),
            np.ones(300),
            np.zeros(300),
            target=TARGET,
            confidence=CONFIDENCE,
            seed=trial,
            temperature=1.0,
        )
        certified += policy.threshold is not None
        # P(agree | at or above t) = (.98 * .249 + .5 * (.75 - t)) / (.999 - t) = .9 at t = .700
        wrong += policy.threshold is not None and policy.threshold < 0.7
    assert certified / 400 > 0.9
    assert wrong / 400 <= 1 - CONFIDENCE


def test_a_good_student_is_certified_and_its_numbers_fit() -> None:
    rng = np.random.default_rng(3)
    probs, labels, weights, novelty = simulated(rng, 200, np.full(200, 0.98), np.ones(200))
    policy = calibrated(probs, labels, weights, novelty, target=TARGET, confidence=0.95, seed=0)
    assert policy.threshold is not None
    assert policy.lower >= TARGET
    assert policy.coverage_ratio > 0.9
    assert policy.rows == pytest.approx(200 * policy.coverage_ratio)
    assert policy.novelty_threshold == pytest.approx(np.quantile(novelty, 0.99, method="inverted_cdf"))


def test_novel_rows_are_neither_answered_nor_counted() -> None:
    confident = np.full(200, 0.99) - np.arange(200) / 10_000
    labels = np.zeros(200, np.int64)
    labels[:2] = 1
    novelty = np.where(np.arange(200) < 2, 9.0, 0.1)  # the two that disagree are the novel ones
    policy = calibrated(
        two_labels(confident, labels == 0), labels, np.ones(200), novelty, target=0.98, confidence=0.95, seed=0
    )
    assert policy.threshold is not None
    assert policy.rows == 198


def test_a_label_that_the_student_lacks_is_a_disagreement() -> None:
    labels = np.full(200, UNKNOWN_LABEL)
    policy = calibrated(
        np.tile([0.9, 0.1], (200, 1)), labels, np.ones(200), np.zeros(200), target=TARGET, confidence=0.95, seed=0
    )
    assert policy.threshold is None


@pytest.mark.parametrize("rows", [0, 1, 20])
def test_too_few_rows_certify_nothing(rows: int) -> None:
    policy = calibrated(
        np.tile([0.99, 0.01], (rows, 1)),
        np.zeros(rows, np.int64),
        np.ones(rows),
        np.zeros(rows),
        target=TARGET,
        confidence=0.95,
        seed=0,
    )
    assert policy.threshold is None
    assert policy.lower == 0


def test_thirty_agreements_certify_ninety_per_cent_and_ties_stay_together() -> None:
    policy = calibrated(
        np.tile([0.99, 0.01], (30, 1)),
        np.zeros(30, np.int64),
        np.ones(30),
        np.zeros(30),
        target=TARGET,
        confidence=0.95,
        seed=0,
    )
    assert policy.rows == 30
    assert policy.coverage_ratio == 1


def test_an_audit_that_disagrees_weighs_more_than_an_escalation_that_does() -> None:
    def certified(heavy: bool) -> int:  # noqa: FBT001
        found = 0
        for seed in range(60):
            rng = np.random.default_rng(seed)
            probs, labels, weights, novelty = simulated(
                rng, 300, np.ones(300), np.r_[np.ones(150), np.full(150, AUDIT)]
            )
            odd = rng.choice(150, 21, replace=False) + (150 if heavy else 0)
            labels[odd] = 1
            policy = calibrated(
                probs, labels, weights, novelty, target=TARGET, confidence=0.95, seed=seed, temperature=1.0
            )
            found += policy.coverage_ratio > 0.95
        return found

    assert certified(heavy=False) > 50
    assert certified(heavy=True) < 10


def test_evened_weights_break_no_more_promises_and_earn_many_more() -> None:
    def two_periods(rng: np.random.Generator, truths: tuple[float, float]) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """90 cold rows, then 400 requests: trusted ones are audited at .15, the others all escalate."""
        trusted = rng.random(490) < 0.7
        seen = (np.arange(490) < 90) | ~trusted | (rng.random(490) < 1 / AUDIT)
        weights = np.where(trusted & (np.arange(490) >= 90), AUDIT, 1.0)[seen]
        rows = simulated(rng, int(seen.sum()), np.where(trusted, *truths)[seen], weights)
        return rows, trusted[seen]

    rng = np.random.default_rng(29)
    broken = raw = even = 0
    for trial in range(400):
        rows, trusted = two_periods(rng, (0.93, (TARGET - 1e-9 - 0.7 * 0.93) / 0.3))
        policy = calibrated(
            rows[0], rows[1], evened(rows[2], trusted), rows[3], target=TARGET, confidence=CONFIDENCE, seed=trial
        )
        broken += policy.threshold is not None
        good, trusted = two_periods(rng, (0.97, 0.97))
        raw += calibrated(*good, target=TARGET, confidence=0.95, seed=trial).threshold is not None
        better = (good[0], good[1], evened(good[2], trusted), good[3])
        even += calibrated(*better, target=TARGET, confidence=0.95, seed=trial).threshold is not None
    assert broken / 400 <= 1 - CONFIDENCE + 0.03
    assert even > raw + 100


def test_evened_weights_keep_each_group_s_total() -> None:
    trusted = np.array([True, True, True, False, False])
    even = evened(np.array([1.0, 1.0, 7.0, 1.0, 2.0]), trusted)
    assert even.tolist() == [3.0, 3.0, 3.0, 1.5, 1.5]
    assert evened(np.array([1, 2, 4]), np.array([True, True, False])).tolist() == [1.5, 1.5, 4.0]  # of counts, too
    assert evened(np.array([1.0, 3.0]), np.array([False, False])).tolist() == [2.0, 2.0]


def test_the_temperature_cools_the_overconfident_and_warms_the_timid() -> None:
    rng = np.random.default_rng(1)
    labels = np.where(rng.random(4000) < 0.75, 0, 1)
    for shown in (0.95, 0.75, 0.6):
        probs = np.tile([shown, 1 - shown], (4000, 1))
        warmth = fit_temperature(probs, labels, np.ones(4000))
        odds = np.log(shown / (1 - shown)) / np.log(0.75 / 0.25)
        assert warmth == pytest.approx(odds, rel=0.1)
    assert fit_temperature(np.tile([0.9, 0.1], (5, 1)), np.full(5, UNKNOWN_LABEL), np.ones(5)) == 1


def test_the_temperature_stays_between_a_tenth_and_ten() -> None:
    always_right = fit_temperature(np.tile([0.6, 0.4], (50, 1)), np.zeros(50, np.int64), np.ones(50))
    by_chance = fit_temperature(np.tile([0.999, 0.001], (50, 1)), np.arange(50) % 2, np.ones(50))
    assert [always_right, by_chance] == pytest.approx([0.1, 10.0], rel=1e-3)


def test_rows_to_certify_are_enough_at_half_the_allowed_error() -> None:
    needed = rows_to_certify(0.9, 0.95)
    probs = np.stack([np.linspace(0.99, 0.6, needed), np.linspace(0.01, 0.4, needed)], axis=1)
    labels = np.zeros(needed, np.int64)
    labels[-int(needed * 0.05) - 1 :] = 1
    policy = calibrated(
        probs, labels, np.ones(needed), np.zeros(needed), target=0.9, confidence=0.95, seed=0, temperature=1.0
    )
    assert policy.threshold is not None
    assert needed < 150


@pytest.mark.parametrize("target", [0.7, 0.8, 0.9, 0.95, 0.98])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_rows_to_certify_are_the_fewest_that_the_binomial_test_lets_through(target: float, confidence: float) -> None:
    rows = np.arange(1, 3000)
    errors = np.array([math.ceil(count * (1 - target) / 2) for count in rows])
    proven = stats.binom.sf(rows - errors - 1, rows, target) <= 1 - confidence
    assert rows_to_certify(target, confidence) == rows[np.argmax(proven)]


def test_questions_off_every_topic_among_the_rows_do_not_make_such_questions_look_usual() -> None:
    rng = np.random.default_rng(5)
    novelty = np.where(np.arange(300) < 12, 0.8, 0.3 * rng.random(300))  # 4 % are far from all that was learned
    labels = np.where(np.arange(300) < 12, UNKNOWN_LABEL, 0)
    policy = calibrated(
        np.tile([0.9, 0.1], (300, 1)), labels, np.ones(300), novelty, target=TARGET, confidence=0.95, seed=0
    )
    assert policy.novelty_threshold is not None
    assert policy.novelty_threshold < 0.31
    assert policy.threshold is not None
    assert policy.coverage_ratio < 0.96


def test_what_is_novel_is_a_share_of_the_questions_and_not_of_the_rows() -> None:
    """What is paid for is mostly what is far away: a few audits stand for the traffic that the student answers."""
    novelty = np.concatenate([np.linspace(0.0, 0.2, 50), np.linspace(0.3, 0.7, 50)])
    weights = np.concatenate([np.full(50, 400.0), np.ones(50)])
    policy = calibrated(
        np.tile([0.9, 0.1], (100, 1)), np.zeros(100, int), weights, novelty, target=TARGET, confidence=0.95, seed=0
    )
    assert policy.novelty_threshold is not None
    assert policy.novelty_threshold < 0.21


@pytest.mark.parametrize(
    ("answers", "places"), [([], []), (["b", "x", "a", "b"], [1, UNKNOWN_LABEL, 0, 1]), (["x"], [UNKNOWN_LABEL])]
)
def test_an_answer_has_the_place_of_its_label_and_none_where_the_student_lacks_it(
    answers: list[str], places: list[int]
) -> None:
    found = index_of(answers, ("a", "b"))
    assert found.tolist() == places
    assert found.dtype.kind == "i"


@pytest.mark.parametrize(("quantile", "limit"), [(0.5, 0.49), (0.9, 0.89), (0.99, 0.98)])
def test_what_is_novel_is_what_the_lane_says(quantile: float, limit: float) -> None:
    rows = 100
    policy = start_of(
        np.full((rows, 2), 0.5),
        np.zeros(rows, int),
        np.ones(rows),
        np.arange(rows) / rows,
        target=TARGET,
        confidence=CONFIDENCE,
        novelty_quantile=quantile,
        temperature=1.0,
    )
    assert policy.novelty_threshold == pytest.approx(limit)
