"""Rankings as arrays: an order from scores, and what is told beside agreement (tau, nDCG), never promised."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Places = npt.NDArray[np.intp]


def best_first(scores: Floats, keys: Sequence[str]) -> Places:
    """The places [n] by falling score [n]; equal scores by the documents' keys, so that no order of asking matters."""
    return np.lexsort((np.asarray(keys), -np.asarray(scores, np.float64)))


def tau(teacher: Floats, student: Floats, *, epsilon: float) -> float:
    """Kendall's tau over the pairs that the teacher tells apart by more than epsilon; 1 where there are none.

    A pair that the student scores equally counts as neither right nor wrong.
    """
    apart = np.subtract.outer(teacher, teacher)
    pairs = np.triu(np.abs(apart) > epsilon, 1)
    if not pairs.any():
        return 1.0
    return float((np.sign(apart) * np.sign(np.subtract.outer(student, student)))[pairs].mean())


def ndcg(teacher: Floats, order: Places, *, k: int) -> float:
    """Normalised discounted cumulative gain of the first k (Järvelin and Kekäläinen 2002); the gain is the score.

    Scores are moved so that the least one of the list gains nothing: cosines may be negative.
    """
    gain = np.asarray(teacher, np.float64) - np.min(teacher)
    discount = 1.0 / np.log2(np.arange(2, min(k, len(gain)) + 2))
    ideal = float((-np.sort(-gain))[:k] @ discount)
    return float(gain[order[:k]] @ discount) / ideal if ideal > 0.0 else 1.0
