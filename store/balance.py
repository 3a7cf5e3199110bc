"""Probabilities as balanced accuracy wants them: a rare label is worth as much as a frequent one (Elkan 2001)."""

from typing import Final

import numpy as np
import numpy.typing as npt

_SMALLEST_SHARE: Final = 1e-4


def balanced(probs: npt.NDArray[np.floating], prior: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The probabilities [..., labels] divided by each label's share of the traffic [labels], summing to 1 again."""
    divided = np.asarray(probs, np.float64) / np.maximum(prior, _SMALLEST_SHARE)
    result: npt.NDArray[np.float64] = divided / divided.sum(axis=-1, keepdims=True)
    return result
