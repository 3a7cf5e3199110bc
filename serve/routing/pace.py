"""What a budget-only lane remembers of its traffic: how sure its student has been of late.

Held by each replica for itself, in memory: after a restart the first two hundred questions fill it again.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

RECENT: Final = 200
RECENT_AFTER_SWAP: Final = 50  # another student's scores have another scale; some are better than none


class Pace:
    """The uncertainties of all recent traffic, whoever answered it."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._version: str | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)

    @property
    def recent(self) -> Sequence[float]:
        """Uncertainties of the latest questions, oldest first."""
        return self._recent

    def see(self, uncertainty: float, version: str) -> None:
        """Take one question of any route into account; with a new version most of what is remembered goes."""
        if version != self._version:
            self._version = version
            self._recent = deque(list(self._recent)[-RECENT_AFTER_SWAP:], maxlen=RECENT)
        self._recent.append(uncertainty)
