"""Labels and probabilities as judges read them: for tests that think of a student as its probabilities."""

import numpy as np
import numpy.typing as npt

from store.policy import Policy
from trainer.judge.calibrate import NOVELTY_QUANTILE, calibrate
from trainer.judge.scored import Scored
from trainer.learn.classify.temper import start_of, tempered_exactly

Floats = npt.NDArray[np.float64]
Reals = npt.NDArray[np.floating]


def scored(probs: Reals, labels: npt.NDArray[np.integer], weights: Reals, novelty: Reals) -> Scored:
    """What a judge reads of probabilities [rows, labels], where the teacher said `labels`."""
    return Scored(
        confidence=probs.max(axis=1, initial=0.0).astype(np.float32).astype(np.float64),
        novelty=np.asarray(novelty, np.float64),
        agreed=(probs.argmax(axis=1) == labels).astype(np.float64) if len(labels) else np.empty(0),
        weight=np.asarray(weights, np.float64),
        cluster=np.arange(len(labels)),
    )


def policy_of(
    probs: Reals,
    labels: npt.NDArray[np.integer],
    weights: Reals,
    novelty: Reals,
    *,
    target: float,
    confidence: float,
    seed: int,
    temperature: float | None = None,
    novelty_quantile: float = NOVELTY_QUANTILE,
) -> Policy:
    """Temper, find the novelty limit, and calibrate, as a cycle of `classify` does."""
    start = start_of(
        probs,
        labels,
        weights,
        novelty,
        target=target,
        confidence=confidence,
        novelty_quantile=novelty_quantile,
        temperature=temperature,
    )
    return calibrate(
        scored(tempered_exactly(probs, start.temperature), labels, weights, novelty) if len(labels) else _NONE,
        start,
        seed=seed,
    )


_NONE = Scored(
    confidence=np.empty(0), novelty=np.empty(0), agreed=np.empty(0), weight=np.empty(0), cluster=np.empty(0, np.int64)
)
