"""When may this student answer? A threshold on its confidence that is certified, or none.

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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc

from store.policy import EarlyPolicy, Moment, Policy
from trainer.judge.intervals import clopper_pearson_lower
from trainer.judge.scored import Scored

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_NO_MOMENTS: Final[Mapping[Moment, Scored]] = {}
NOVELTY_QUANTILE: Final = 0.99
_STEPS: Final = 20  # thresholds are tried at each twentieth of the rows
_START_RATIOS: Final = (0.15, 0.3, 0.5)
_ROOM_FOR_ERRORS: Final = 3  # a start has rows enough to be certified in spite of so many disagreements
_STRICT_RATIO: Final = 0.6  # a single start lies among the most confident rows, if there are enough of them


def calibrate(scored: Scored, start: Policy, *, seed: int, early: Mapping[Moment, Scored] = _NO_MOMENTS) -> Policy:
    """The policy of one version, from rows that it was not trained on, one row a question.

    Where a teacher gave a row several answers, one of them is drawn: so each row is a trial, and the test stays exact.

    Args:
        scored: its behaviour; the weights say how many questions each row stands for.
        start: its temperature and novelty limit, and what is promised; nothing is certified in it yet.
        seed: of the thinning, and of the answers drawn.
        early: the same answers by how sure it was before they were whole; each moment is certified by itself.
    """
    if early:
        found_then = {moment: calibrate(then, start, seed=seed) for moment, then in early.items()}
        start = msgspec.structs.replace(start, early={name: _early(one) for name, one in found_then.items()})
    if not scored.rows:
        return start
    scores = scored.confidence
    if start.novelty_threshold is not None:
        scores = np.where(scored.novelty > start.novelty_threshold, -1.0, scores)
    found = certify(
        scores, scored.agreed, scored.weight, target=start.target, confidence=start.confidence_level, seed=seed
    )
    if found is None:
        return start
    return msgspec.structs.replace(
        start,
        threshold=found.threshold,
        coverage_ratio=found.coverage_ratio,
        rows=found.rows,
        lower=found.lower,
    )


def _early(found: Policy) -> EarlyPolicy:
    return EarlyPolicy(
        threshold=found.threshold, coverage_ratio=found.coverage_ratio, rows=found.rows, lower=found.lower
    )


def uncertified(
    target: float, confidence: float, *, temperature: float = 1.0, novelty_threshold: float | None = None
) -> Policy:
    """A policy under which a lane that promises something escalates everything."""
    return Policy(
        temperature=temperature,
        threshold=None,
        novelty_threshold=novelty_threshold,
        target=target,
        confidence_level=confidence,
        coverage_ratio=0.0,
        rows=0,
        lower=0.0,
    )


def novelty_limit(
    novelty: npt.NDArray[np.floating], weights: npt.NDArray[np.floating], ratio: float = NOVELTY_QUANTILE
) -> float:
    """The least of the distances that so much of the weight does not exceed.

    Weighted, because what is paid for is mostly what is far from everything: counted by rows, a limit that a hundredth
    of the *rows* exceeds is one that hardly any question does.

    Args:
        novelty: [rows] distances, at least one, of questions of a kind that the student knows.
        weights: [rows] how many questions each row stands for.
        ratio: share of the questions that is not novel.
    """
    return float(np.quantile(novelty, ratio, weights=weights, method="inverted_cdf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A threshold at or above which answers agree often enough, with what shows it."""

    threshold: float
    coverage_ratio: float  # share of the weight at or above it
    rows: int  # thinned rows at or above it
    lower: float  # lower bound of their agreement, at the error it was certified at


def certify(
    scores: Floats,
    agreed: Floats | Bools,
    weights: npt.NDArray[np.floating],
    *,
    target: float,
    confidence: float,
    seed: int,
) -> Certified | None:
    """The lowest threshold that keeps the promise, or None. Knows no task: a score and whether it agreed is all.

    Args:
        scores: [rows] higher is surer; below 0 is never answered.
        agreed: [rows] whether the answer is the teacher's; a share of the teacher's answers is as good as that chance.
        weights: [rows] how many questions each row stands for.
        target: answered agreement to promise, in (0, 1).
        confidence: with which to promise it, in (0, 1).
        seed: of the thinning.
    """
    dice = np.random.default_rng(seed)
    kept = dice.random(len(weights)) < weights / weights.max()
    right = dice.random(len(weights)) < agreed
    found = _lowest_certified(scores[kept], right[kept], target, 1 - confidence)
    if found is None:
        return None
    threshold, alpha = found
    answered = right[kept][scores[kept] >= threshold]
    return Certified(
        threshold=threshold,
        coverage_ratio=float(weights[scores >= threshold].sum() / weights.sum()),
        rows=len(answered),
        lower=clopper_pearson_lower(int(answered.sum()), len(answered), alpha),
    )


def evened(weights: npt.NDArray[np.floating], *trusted: Bools) -> Floats:
    """Weights made equal among the rows that the serving policy trusts, and among those that it does not.

    Where it decides at several moments: among those that are trusted at the same ones.

    A trusted question reaches the teacher at the audit rate now, and always did while there was no student. Both kinds
    of row are fair draws of the trusted questions, so each may carry their mean weight: the total stays, and a handful
    of audits no longer outweighs all the rest. This assumes that the mix of questions *within* each of the two groups
    is the same before and after; where traffic shifts within a group, use the weights as they are.
    """
    even = np.array(weights, np.float64)
    alike = np.unique(np.stack(trusted), axis=1, return_inverse=True)[1]
    for kind in np.unique(alike):
        even[alike == kind] = even[alike == kind].mean()
    return even


def rows_to_certify(target: float, confidence: float) -> int:
    """Confident rows that certify a threshold where true agreement lies half way between the target and 1."""
    rows = 1
    while _chance(rows - math.ceil(rows * (1 - target) / 2), rows, target) > 1 - confidence:
        rows += 1
    return rows


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
