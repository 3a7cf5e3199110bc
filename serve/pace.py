"""What a budget-only lane remembers of its traffic: how sure its student has been, and what it mostly says.

Held by each replica for itself, in memory: after a restart the first two hundred questions fill it again.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from store.balance import balanced
from store.policy import Allowance

Metric = Literal["accuracy", "balanced_accuracy"]

RECENT: Final = 200
RECENT_AFTER_SWAP: Final = 50  # another student's scores have another scale; some are better than none
PRIOR_ROWS: Final = 1500


class Horizon(Protocol):
    """How much of the budget, and of the traffic that shares it, is still to come."""

    def allowance(self) -> Allowance:
        """What is left now; asked once for each question, so that traffic can be counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The student's output as the lane's metric wants it."""

    place: int  # of the top label
    confidence: float
    uncertainty: float  # 1 - (p1 - p2)


class Pace:
    """The recent uncertainties of all traffic, and the mean of what the student said to it."""

    def __init__(self, metric: Metric) -> None:
        """Remember nothing yet.

        Args:
            metric: `balanced_accuracy` divides by each label's share of the traffic seen, so that a rare label is
                worth as much as a frequent one (Elkan 2001).
        """
        self._metric = metric
        self._version: str | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._said: deque[NDArray[np.float64]] = deque()
        self._sum = np.zeros(0)  # [labels]: of the probabilities in `_said`
        self._rows = np.zeros(0)  # [labels]: how many of those rows knew the label

    @property
    def recent(self) -> Sequence[float]:
        """Uncertainties of the latest questions, oldest first."""
        return self._recent

    def see(self, probs: Sequence[float], version: str) -> Look:
        """Take one question of any route into account, and say what its answer comes to.

        Args:
            probs: [labels], the student's.
            version: that gave them; with a new one most of what is remembered goes.
        """
        if version != self._version:
            self._version = version
            self._recent = deque(list(self._recent)[-RECENT_AFTER_SWAP:], maxlen=RECENT)
        values = np.asarray(probs, np.float64)
        if self._metric == "balanced_accuracy":
            values = self._balanced(values)
        low, high = (float(value) for value in np.sort(values)[-2:])
        look = Look(place=int(values.argmax()), confidence=min(1.0, high), uncertainty=1.0 - (high - low))
        self._recent.append(look.uncertainty)
        return look

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
