"""How sure a student of `chat` is: a logistic regression over a few signals of its answer and its question.

One set of numbers for each moment at which a lane may decide; what is not known at that moment has the weight zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from store.errors import CorruptVersionError

Floats = npt.NDArray[np.float64]

SIGNALS: Final = ("sum_logprob", "least_prob", "neighbours_equal", "novelty")
"""Of the answer: the sum of its tokens' log-probabilities, and the least of their probabilities. Of both: the share of
the nearest training prompts whose answer is the student's. Of the question: its distance to the nearest of them."""
_PARTS: Final = ("mean", "scale", "weight", "bias")
_MOST: Final = 60.0  # logits beyond are 0 and 1 in any case


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confidence:
    """The regression: sigmoid(weight . (signals - mean) / scale + bias)."""

    mean: Floats  # [signals]
    scale: Floats  # [signals], above 0
    weight: Floats  # [signals]
    bias: float

    def of(self, signals: Floats) -> Floats:
        """[n] chances that the teacher says the same, of signals [n, signals]."""
        logits = (np.asarray(signals, np.float64) - self.mean) / self.scale @ self.weight + self.bias
        chances: Floats = 1.0 / (1.0 + np.exp(-np.clip(logits, -_MOST, _MOST)))
        return chances

    def arrays(self, name: str) -> dict[str, Floats]:
        """Its numbers by name, as `confidence.safetensors` holds them for one moment of deciding."""
        found = {part: np.asarray(getattr(self, part), np.float64).reshape(-1) for part in _PARTS}
        return {f"{name}.{part}": value for part, value in found.items()}

    @staticmethod
    def read(arrays: Mapping[str, Floats], name: str, signals: int) -> "Confidence":
        """The numbers of one moment of deciding.

        Raises:
            CorruptVersionError: one is missing, of another size, or no number.
        """
        found = {part: arrays.get(f"{name}.{part}") for part in _PARTS}
        for part, value in found.items():
            size = 1 if part == "bias" else signals
            if value is None or value.shape != (size,) or not np.isfinite(value).all():
                message = f"the confidence has no {size} numbers {name}.{part}"
                raise CorruptVersionError(message)
        mean, scale, weight, bias = (np.asarray(found[part], np.float64) for part in _PARTS)
        if not bool((scale > 0).all()):
            message = f"the confidence has a scale {name}.scale that is not above 0"
            raise CorruptVersionError(message)
        return Confidence(mean=mean, scale=scale, weight=weight, bias=float(bias[0]))


def answer_signals(logprobs: Sequence[float]) -> tuple[float, float]:
    """The sum of an answer's log-probabilities, and the least probability of its tokens."""
    return float(np.sum(logprobs)), float(np.exp(np.min(logprobs)))
