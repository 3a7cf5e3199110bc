"""Balanced accuracy: a student's probabilities divided by the mean of what it said, so that rare labels count as much.

Held by each replica for itself, in memory: after a restart it begins anew.
"""

from collections import deque
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from store.balance import balanced
from store.student.loaded import LabelOpinion

PRIOR_ROWS: Final = 1500


class Balance:
    """The mean of what the student said to the last questions, of any route (Elkan 2001)."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._said: deque[NDArray[np.float64]] = deque()
        self._sum = np.zeros(0)  # [labels]: of the probabilities in `_said`
        self._rows = np.zeros(0)  # [labels]: how many of those rows knew the label

    def weigh(self, opinion: LabelOpinion) -> LabelOpinion:
        """Take one opinion into account, and say what its answer comes to."""
        values = self._balanced(np.asarray(opinion.probs, np.float64))
        low, high = (float(value) for value in np.sort(values)[-2:])
        return replace(
            opinion,
            output=opinion.labels[int(values.argmax())],
            confidence=min(1.0, high),
            uncertainty=1.0 - (high - low),
        )

    def _balanced(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities divided by the mean of those over the last rows that knew the label, summing to 1."""
        if (more := len(values) - len(self._sum)) > 0:  # labels that a newer version knows as well
            self._sum, self._rows = np.pad(self._sum, (0, more)), np.pad(self._rows, (0, more))
        self._said.append(values)
        self._sum[: len(values)] += values
        self._rows[: len(values)] += 1
        if len(self._said) > PRIOR_ROWS:
            gone = self._said.popleft()
            self._sum[: len(gone)] -= gone
            self._rows[: len(gone)] -= 1
        return balanced(values, self._sum[: len(values)] / self._rows[: len(values)])
