"""Ranking: when two orders of the same documents agree, and what is told of them beside it.

What is promised is *the top k within epsilon*: nobody loses more than epsilon, in the teacher's own scores, at any of
the first k places. An order alone cannot be promised: two noisy copies of one teacher give another one in most lists.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.event import canonical_text

Floats = npt.NDArray[np.floating]
Places = npt.NDArray[np.intp]

_SLACK = 1e-9  # a loss of exactly epsilon is within it, whatever the subtraction rounds to


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a lane calls the same ranking: fixed before any coverage is looked at, and printed with the promise."""

    k: int = 1  # first places that count
    epsilon: float = 0.05  # of the teacher's scores; an order without scores knows no distance, and ignores it


def document_key(document: str) -> str:
    """A stable name of a document's text, equal for texts that are equal in canonical form: 32 hex digits."""
    return hashlib.sha256(canonical_text(document).encode()).hexdigest()[:32]


def best_first(scores: Floats, keys: Sequence[str]) -> Places:
    """The places [n] by falling score [n]; equal scores by the documents' keys, so that no order of asking matters."""
    return np.lexsort((np.asarray(keys), -np.asarray(scores, np.float64)))


def agree(teacher: Floats, order: Places, tolerance: Tolerance) -> bool:
    """Whether the first k of `order` are within epsilon of the teacher's own, place by place.

    Args:
        teacher: [n] the teacher's scores.
        order: [n] or less, best first, as places in `teacher`; its first k are looked at.
        tolerance: k is cut to the length of the list.
    """
    return bool(loss(teacher, order, k=tolerance.k) <= tolerance.epsilon + _SLACK)


def loss(teacher: Floats, order: Places, *, k: int) -> float:
    """The most that a place loses: max over i <= k of (i-th best score) - (i-th best score among the first k)."""
    best = -np.sort(-np.asarray(teacher, np.float64))
    found = -np.sort(-np.asarray(teacher, np.float64)[order[:k]])
    return float((best[: len(found)] - found).max(initial=0.0))


def overlap(teacher: Places, order: Places, *, k: int) -> float:
    """The share of the teacher's first k among the first k of `order`: agreement with a teacher who gives no scores."""
    wanted = min(k, len(teacher))
    return len({int(place) for place in teacher[:k]} & {int(place) for place in order[:k]}) / wanted if wanted else 1.0


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
