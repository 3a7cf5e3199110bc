"""When may this student answer? A temperature, a novelty limit, and a threshold that is certified or absent.

The threshold is found by Learn-then-Test (Angelopoulos et al. 2021): thresholds are tested from strict to lenient, each
with an exact binomial test (Clopper and Pearson) of "answered agreement is below the target", and the lowest one
certified wins. Up to three places of the sequence are given a share of the error in advance (the fallback procedure,
Wiens 2003), so one unlucky strict threshold does not end it; they are chosen by how many rows there are, never by how
the rows agree.

Rows that stand for more questions than others (audits) are made equal by thinning: a row is kept with probability
weight / largest weight. What is kept is a fair draw of the weighted population, so the test stays exact. Simulated at
target .90, it certifies with 40 % fewer audits than betting on all rows does.

What is promised is about *questions*: near-duplicates and repeats count once, whatever their number.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import bdtrc, softmax

from store.policy import Policy
from trainer.judge.intervals import clopper_pearson_lower

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NOVELTY_QUANTILE: Final = 0.99
UNKNOWN_LABEL: Final = -1
_STEPS: Final = 20  # thresholds are tried at each twentieth of the rows
_START_RATIOS: Final = (0.15, 0.3, 0.5)
_ROOM_FOR_ERRORS: Final = 3  # a start has rows enough to be certified in spite of so many disagreements
_STRICT_RATIO: Final = 0.6  # a single start lies among the most confident rows, if there are enough of them
_TEMPERATURES: Final = (0.1, 10.0)
_SMALLEST_PROBABILITY: Final = 1e-12


def calibrate(
    probs: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating],
    novelty: npt.NDArray[np.floating],
    *,
    target: float,
    confidence: float,
    seed: int,
    temperature: float | None = None,
    novelty_quantile: float = NOVELTY_QUANTILE,
) -> Policy:
    """The policy of one version, from rows that it was not trained on, one row a question.

    Args:
        probs: [rows, labels], the student's, before any temperature.
        labels: [rows] index of the teacher's label, UNKNOWN_LABEL where the student lacks it.
        weights: [rows] how many questions each row stands for (`Row.mass`, or `evened` over it).
        novelty: [rows] distance to the nearest reference vector.
        target: answered agreement to promise, in (0, 1).
        confidence: with which to promise it, in (0, 1).
        seed: of the thinning.
        temperature: fitted on other rows; None fits it on these, which lets one number see the labels before the test
            (simulated: no measurable effect on the error).
        novelty_quantile: share of the questions with a label that the student knows that is not novel.
    """
    if not len(labels):
        return _uncertified(1.0, None, target, confidence)
    warmth = fit_temperature(probs, labels, weights) if temperature is None else temperature
    tempered = _tempered(probs, warmth)
    known = labels != UNKNOWN_LABEL  # what is off every topic must not make off-topic questions look usual
    usual = known if known.any() else np.ones_like(known)
    novelty_threshold = _weighted_quantile(novelty[usual], weights[usual], novelty_quantile)
    # As precise as they will be served: a threshold between two values of float32 would tell equals apart.
    scores = np.where(novelty > novelty_threshold, -1.0, tempered.max(axis=1).astype(np.float32)).astype(np.float64)
    agreed = tempered.argmax(axis=1) == labels
    found = certify(scores, agreed, weights, target=target, confidence=confidence, seed=seed)
    if found is None:
        return _uncertified(warmth, novelty_threshold, target, confidence)
    return Policy(
        temperature=warmth,
        threshold=found.threshold,
        novelty_threshold=novelty_threshold,
        target=target,
        confidence_level=confidence,
        coverage_ratio=found.coverage_ratio,
        rows=found.rows,
        lower=found.lower,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A threshold at or above which answers agree often enough, with what shows it."""

    threshold: float
    coverage_ratio: float  # share of the weight at or above it
    rows: int  # thinned rows at or above it
    lower: float  # lower bound of their agreement, at the error it was certified at


def certify(
    scores: Floats,
    agreed: Bools,
    weights: npt.NDArray[np.floating],
    *,
    target: float,
    confidence: float,
    seed: int,
) -> Certified | None:
    """The lowest threshold that keeps the promise, or None. Knows no task: a score and whether it agreed is all.

    Args:
        scores: [rows] higher is surer; below 0 is never answered.
        agreed: [rows] whether the answer is the teacher's.
        weights: [rows] how many questions each row stands for.
        target: answered agreement to promise, in (0, 1).
        confidence: with which to promise it, in (0, 1).
        seed: of the thinning.
    """
    kept = np.random.default_rng(seed).random(len(weights)) < weights / weights.max()
    found = _lowest_certified(scores[kept], agreed[kept], target, 1 - confidence)
    if found is None:
        return None
    threshold, alpha = found
    answered = agreed[kept][scores[kept] >= threshold]
    return Certified(
        threshold=threshold,
        coverage_ratio=float(weights[scores >= threshold].sum() / weights.sum()),
        rows=len(answered),
        lower=clopper_pearson_lower(int(answered.sum()), len(answered), alpha),
    )


def evened(weights: npt.NDArray[np.floating], trusted: Bools) -> Floats:
    """Weights made equal among the rows that the serving policy trusts, and among those that it does not.

    A trusted question reaches the teacher at the audit rate now, and always did while there was no student. Both kinds
    of row are fair draws of the trusted questions, so each may carry their mean weight: the total stays, and a handful
    of audits no longer outweighs all the rest. This assumes that the mix of questions *within* each of the two groups
    is the same before and after; where traffic shifts within a group, use the weights as they are.
    """
    even = np.array(weights, np.float64)
    for group in (trusted, ~trusted):
        if group.any():
            even[group] = even[group].mean()
    return even


def fit_temperature(
    probs: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], weights: npt.NDArray[np.floating]
) -> float:
    """The temperature, .1 to 10, with the least weighted log loss (Guo et al. 2017); 1 where no label is known."""
    known = np.flatnonzero(labels != UNKNOWN_LABEL)
    if not len(known):
        return 1.0
    places = labels[known]

    def loss(log_temperature: float) -> float:
        tempered = _tempered(probs[known], math.exp(log_temperature))
        likely = np.maximum(tempered[np.arange(len(known)), places], _SMALLEST_PROBABILITY)
        return float(-(weights[known] * np.log(likely)).sum())

    low, high = map(math.log, _TEMPERATURES)
    return math.exp(float(minimize_scalar(loss, bounds=(low, high)).x))


def _weighted_quantile(values: npt.NDArray[np.floating], weights: npt.NDArray[np.floating], ratio: float) -> float:
    """The least of the values that so much of the weight does not exceed.

    Weighted, because what is paid for is mostly what is far from everything: counted by rows, a limit that a hundredth
    of the *rows* exceeds is one that hardly any question does.
    """
    return float(np.quantile(values, ratio, weights=weights, method="inverted_cdf"))


def rows_to_certify(target: float, confidence: float) -> int:
    """Confident rows that certify a threshold where true agreement lies half way between the target and 1."""
    rows = 1
    while _chance(rows - math.ceil(rows * (1 - target) / 2), rows, target) > 1 - confidence:
        rows += 1
    return rows


def _tempered(probs: npt.NDArray[np.floating], temperature: float) -> Floats:
    logs = np.log(np.maximum(probs.astype(np.float64), _SMALLEST_PROBABILITY)) / temperature
    tempered: Floats = softmax(logs, axis=1)
    return tempered


def _lowest_certified(scores: Floats, agreed: Bools, target: float, alpha: float) -> tuple[float, float] | None:
    """(threshold, the error it was certified at), or None."""
    order = np.argsort(-scores)
    falling, right = scores[order], np.cumsum(agreed[order])
    steps = _steps(falling)
    budget = _starts(steps, len(falling), target, alpha)
    found, carried = None, 0.0
    for step in steps:
        carried += budget.get(step, 0.0)
        if carried > 0 and _chance(int(right[step - 1]), step, target) <= carried:
            found = (float(falling[step - 1]), carried)
        else:
            carried = 0.0
    return found


def _steps(falling: Floats) -> list[int]:
    """How many rows are at or above each threshold that is tried, ascending; ties are never split, novel rows out."""
    answerable = int(np.count_nonzero(falling >= 0))
    wanted = {math.ceil(len(falling) * twentieth / _STEPS) for twentieth in range(1, _STEPS + 1)}
    counts = {
        int(np.searchsorted(-falling, -falling[min(w, answerable) - 1], side="right")) for w in wanted if answerable
    }
    return sorted(counts)


def _starts(steps: list[int], rows: int, target: float, alpha: float) -> dict[int, float]:
    """Where the error is put to begin with: as many of the three places as have rows enough, else one place."""
    for skipped in range(len(_START_RATIOS)):
        ratios = _START_RATIOS[skipped:]
        share = alpha / len(ratios)
        places = [_first(steps, rows * ratio) for ratio in ratios]
        if all(_certifiable(place, _ROOM_FOR_ERRORS, target, share) for place in places):
            return {place: share * places.count(place) for place in places}
    strict = [step for step in steps if step <= _STRICT_RATIO * rows]
    for errors in range(_ROOM_FOR_ERRORS, -1, -1):
        for step in strict:
            if _certifiable(step, errors, target, alpha):
                return {step: alpha}
    return next(({step: alpha} for step in steps if _certifiable(step, 0, target, alpha)), {})


def _first(steps: list[int], least: float) -> int:
    return next((step for step in steps if step >= least), 0)


def _certifiable(rows: int, errors: int, target: float, alpha: float) -> bool:
    return _chance(rows - errors, rows, target) <= alpha


def _chance(right: int, rows: int, target: float) -> float:
    """P(so many agreements or more, if the truth is the target): the binomial test that Clopper-Pearson inverts."""
    return float(bdtrc(right - 1, rows, target))


def _uncertified(temperature: float, novelty: float | None, target: float, confidence: float) -> Policy:
    return Policy(
        temperature=temperature,
        threshold=None,
        novelty_threshold=novelty,
        target=target,
        confidence_level=confidence,
        coverage_ratio=0.0,
        rows=0,
        lower=0.0,
    )
