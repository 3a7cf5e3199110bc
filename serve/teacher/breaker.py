"""Leaving a teacher alone that fails or refuses us, and trying again now and then."""

from typing import Final

_LONGEST_OPEN_S: Final = 300.0  # between two tries of an endpoint that refuses our settings


class Breaker:
    """Leaves a failing teacher alone: opens after failures in a row, then lets one call try again."""

    def __init__(self, *, failures: int, open_s: float) -> None:
        """Start closed."""
        self._limit = failures
        self._open_s = open_s
        self._failures = 0
        self._refusals = 0
        self._trying = False  # in an open circuit, one call is out
        self._retry_at_s: float | None = None  # None: closed

    def is_open(self, now_s: float) -> bool:
        """Whether calls are refused (monotonic seconds)."""
        return self._retry_at_s is not None and now_s < self._retry_at_s

    def admit(self, now_s: float) -> bool:
        """May this call go out? In an open circuit one may, once `open_s` have passed, and the next waits as long."""
        if self.is_open(now_s):
            return False
        if self._retry_at_s is not None:
            self._retry_at_s = now_s + self._open_s
            self._trying = True
        return True

    def succeeded(self) -> None:
        """The teacher answered, usefully or not: close."""
        self._failures = self._refusals = 0
        self._trying = False
        self._retry_at_s = None

    def failed(self, now_s: float) -> None:
        """It did not: open after enough failures in a row."""
        self._trying = False
        self._failures += 1
        if self._failures >= self._limit:
            self._retry_at_s = now_s + self._open_s

    def passed_over(self, now_s: float) -> None:
        """A call told nothing of the teacher: of an open circuit's tries, the next may go out at once."""
        if self._trying:
            self._trying = False
            self._retry_at_s = now_s

    def refused(self, now_s: float) -> None:
        """It does not take our settings: open at once, and twice as long each time that it still does not."""
        if self._retry_at_s is None or self._trying:  # calls that were out together count once
            self._trying = False
            wait_s = self._open_s * 2.0 ** min(self._refusals, 16)
            self._refusals += 1
            self._retry_at_s = now_s + min(wait_s, max(self._open_s, _LONGEST_OPEN_S))
