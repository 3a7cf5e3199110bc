"""How long to wait after the n-th failure in a row, for every loop of ours that tries again.

The loops differ, and each is its own: one is woken by a stop, one sends less while it waits, one has a clock for each
slot. A library that sleeps by itself would hold up a stop, so that they share the arithmetic alone.
"""

from dataclasses import dataclass
from random import Random

_MOST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Doubling and bounded; with jitter where many would try at the same moment."""

    first_s: float = 0.1
    most_s: float = 10.0

    def longest_s(self, failures: int) -> float:
        """min(most, first * 2**(failures - 1)); `failures` from 1."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))

    def delay_s(self, failures: int, rng: Random) -> float:
        """Between half and all of `longest_s`."""
        return self.longest_s(failures) * rng.uniform(0.5, 1.0)
