"""What judges read of a student: how sure it was, how novel the question, and whether its answer was the teacher's."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """One version's behaviour on some rows, whatever its task; one entry a row in each array."""

    confidence: Floats  # as precise as it is served
    novelty: Floats  # distance to the nearest reference vector
    agreed: Floats  # share of the teacher's answers that its own agrees with, in [0, 1], by the lane's definition
    weight: Floats  # questions, or requests, that the row stands for
    cluster: npt.NDArray[np.int64]  # linked rows share a number

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.agreed)
