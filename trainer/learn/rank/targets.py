"""What is learned of a teacher's answers to a list: one number a document."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from store.tasks.rank import RankSaid, heard
from trainer.learn.rank.head import order_scores
from trainer.snapshot import Row

Floats = npt.NDArray[np.float64]


def targets_of(rows: Sequence[Row], sizes: Sequence[int]) -> tuple[list[Floats], bool]:
    """A target [n] for each row, and whether they are scores of the teacher's own.

    The mean over the newest answers. Where a teacher gave orders, normal scores stand for them. Of a lane that has both
    kinds, the more frequent one decides, and the other is brought to its scale.

    Args:
        rows: with their answers.
        sizes: documents in each row's list.
    """
    said = [heard(row.answers) for row in rows]
    scored = 2 * sum(any(one.scores is not None for one in each) for each in said) >= len(rows)
    spread = _spread(said) if scored else 1.0
    return [_target(each, size, spread, scored=scored) for each, size in zip(said, sizes, strict=True)], scored


def _target(said: Sequence[RankSaid], size: int, spread: float, *, scored: bool) -> Floats:
    scores = [np.asarray(one.scores, np.float64) for one in said if one.scores is not None]
    wanted = scores if scored and scores else [spread * order_scores(one.best_first, size) for one in said]
    return np.asarray(np.mean(wanted, axis=0), np.float64)


def _spread(said: Sequence[Sequence[RankSaid]]) -> float:
    """Typical sd of scores within a list; 1 where there are none."""
    found = [
        float(np.std(one.scores)) for each in said for one in each if one.scores is not None and len(one.scores) > 1
    ]
    return float(np.mean(found)) if found else 1.0
