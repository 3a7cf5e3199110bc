"""When to trust a chatting student: a logistic regression over a few signals, from outcomes that were no training.

The signals come from answers of a student that had not seen the question's answer: of the parts of a cross-fit at
first, later from the opinions that versions in service gave before the teacher was asked.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from store.student.chat.trust import EARLY_SIGNALS, Confidence, Early

Floats = npt.NDArray[np.float64]

_STRENGTH: Final = 1.0  # of the penalty's inverse, on standardised signals
_PRIOR: Final = 0.5  # outcomes of each kind that are assumed where only one kind was seen
_DECIDING: Final = 3  # tokens, after those that answers begin with alike
_ALIKE: Final = 0.9  # share of the answers that begin so


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcomes:
    """What became of answers that nobody had trained for."""

    signals: Floats  # [n, signals]
    agreed: Floats  # [n] in [0, 1]
    weight: Floats  # [n] questions that each stands for

    @staticmethod
    def joined(*parts: "Outcomes") -> "Outcomes":
        """All of them."""
        return Outcomes(
            signals=np.concatenate([one.signals for one in parts]),
            agreed=np.concatenate([one.agreed for one in parts]),
            weight=np.concatenate([one.weight for one in parts]),
        )


def fit_confidence(outcomes: Outcomes) -> Confidence:
    """Chance of agreement from the signals; a constant where all agreed, or none did, or there are no outcomes."""
    if not len(outcomes.agreed):
        return constant(_PRIOR, outcomes.signals.shape[1])
    signals, agreed, weight = outcomes.signals, outcomes.agreed, outcomes.weight / outcomes.weight.mean()
    mean = np.average(signals, axis=0, weights=weight)
    scale = np.sqrt(np.average((signals - mean) ** 2, axis=0, weights=weight))
    scale = np.where(scale > 0, scale, 1.0)
    yes, no = float(weight @ agreed), float(weight @ (1.0 - agreed))
    if yes == 0 or no == 0:
        return constant((yes + _PRIOR) / (yes + no + 2 * _PRIOR), signals.shape[1])
    rows = (signals - mean) / scale
    model = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(
        np.concatenate([rows, rows]),
        np.repeat([1, 0], len(rows)),
        sample_weight=np.concatenate([weight * agreed, weight * (1.0 - agreed)]),
    )
    return Confidence(mean=mean, scale=scale, weight=model.coef_[0], bias=float(model.intercept_[0]))


def constant(chance: float, signals: int) -> Confidence:
    """The same chance in (0, 1) whatever the signals are."""
    zeros, ones = np.zeros(signals), np.ones(signals)
    return Confidence(mean=zeros, scale=ones, weight=zeros, bias=float(np.log(chance / (1.0 - chance))))


def unfitted(tokens: int) -> Early:
    """Signals of each moment, and no idea yet what they are worth."""
    return Early(tokens=tokens, heads={name: constant(_PRIOR, len(signals)) for name, signals in EARLY_SIGNALS.items()})


def deciding_tokens(answers: Sequence[Sequence[int]]) -> int:
    """Tokens of an answer by which it can be told from others: three after those that nine in ten begin with alike.

    An object of JSON begins with what all of them begin with, and its first token says nothing.

    Args:
        answers: ids of each, the end included.
    """
    length, alike = 0, list(answers)
    while counts := Counter(one[length] for one in alike if len(one) > length):
        token, count = counts.most_common(1)[0]
        if count < _ALIKE * len(answers):
            break
        alike = [one for one in alike if len(one) > length and one[length] == token]
        length += 1
    return length + _DECIDING
