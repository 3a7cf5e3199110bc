"""What probabilities come to as a judge reads them: a temperature, whether the top label is right, and how sure."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from store.policy import Policy
from trainer.judge.calibrate import novelty_limit, uncertified

UNKNOWN_LABEL: Final = -1
_TEMPERATURES: Final = (0.1, 10.0)
_SMALLEST_PROBABILITY: Final = 1e-12

Floats = npt.NDArray[np.float64]


def start_of(
    probs: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating],
    novelty: npt.NDArray[np.floating],
    *,
    target: float,
    confidence: float,
    novelty_quantile: float,
    temperature: float | None = None,
) -> Policy:
    """The temperature and the novelty limit of one version, from rows that it was not trained on.

    Args:
        probs: [rows, labels], the student's, before any temperature.
        labels: [rows] index of the teacher's label, UNKNOWN_LABEL where the student lacks it.
        weights: [rows] how many questions each row stands for.
        novelty: [rows] distance to the nearest reference vector.
        target: answered agreement that is promised.
        confidence: with which it is promised.
        novelty_quantile: share of the questions with a label that the student knows that is not novel.
        temperature: fitted on other rows; None fits it on these, which lets one number see the labels before the test
            (simulated: no measurable effect on the error).
    """
    if not len(labels):
        return uncertified(target, confidence)
    known = labels != UNKNOWN_LABEL  # what is off every topic must not make off-topic questions look usual
    usual = known if known.any() else np.ones_like(known)
    return uncertified(
        target,
        confidence,
        temperature=fit_temperature(probs, labels, weights) if temperature is None else temperature,
        novelty_threshold=novelty_limit(novelty[usual], weights[usual], novelty_quantile),
    )


def fit_temperature(
    probs: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], weights: npt.NDArray[np.floating]
) -> float:
    """The temperature, .1 to 10, with the least weighted log loss (Guo et al. 2017); 1 where no label is known."""
    known = np.flatnonzero(labels != UNKNOWN_LABEL)
    if not len(known):
        return 1.0
    places = labels[known]

    def loss(log_temperature: float) -> float:
        tempered = tempered_exactly(probs[known], math.exp(log_temperature))
        likely = np.maximum(tempered[np.arange(len(known)), places], _SMALLEST_PROBABILITY)
        return float(-(weights[known] * np.log(likely)).sum())

    low, high = map(math.log, _TEMPERATURES)
    return math.exp(float(minimize_scalar(loss, bounds=(low, high)).x))


def tempered_exactly(probs: npt.NDArray[np.floating], temperature: float) -> Floats:
    """softmax(log(probs) / temperature), rows of [n, labels], in float64."""
    logs = np.log(np.maximum(probs.astype(np.float64), _SMALLEST_PROBABILITY)) / temperature
    tempered: Floats = softmax(logs, axis=1)
    return tempered


def index_of(answers: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """[rows] the place of each answer in a label map, UNKNOWN_LABEL where it is not in it."""
    place = {label: number for number, label in enumerate(labels)}
    return np.array([place.get(answer, UNKNOWN_LABEL) for answer in answers], np.int64)
