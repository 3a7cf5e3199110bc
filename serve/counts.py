"""What one replica has done for one lane, since its start and lately: the numbers of its heartbeat."""

from collections import deque

from store.control import REMEMBERED_REQUESTS, REMEMBERED_S, Heartbeat


class Counts:
    """Running totals, and the last 500 requests of the last five minutes."""

    def __init__(self) -> None:
        """Start at zero."""
        self._requests = 0
        self._escalated = 0
        self._withheld = 0
        self._heard = 0
        self._unread = 0
        self._recent: deque[tuple[float, bool]] = deque(maxlen=REMEMBERED_REQUESTS)

    def add(self, *, now_s: float, escalated: bool, withheld: bool) -> None:
        """Count one request (monotonic seconds)."""
        self._requests += 1
        self._escalated += escalated
        self._withheld += withheld
        self._recent.append((now_s, escalated))

    def heard(self, *, readable: bool) -> None:
        """Count one answer of the teacher, audits included."""
        self._heard += 1
        self._unread += not readable

    def heartbeat(
        self, *, version: str | None, at_s: float, now_s: float, used_calls: int, limit_calls: int, suspended: bool
    ) -> Heartbeat:
        """The replica's word on the lane: `at_s` in Unix seconds, `now_s` monotonic."""
        while self._recent and now_s - self._recent[0][0] > REMEMBERED_S:
            self._recent.popleft()
        return Heartbeat(
            version=version,
            at_s=at_s,
            requests=self._requests,
            escalated=self._escalated,
            withheld=self._withheld,
            recent_requests=len(self._recent),
            recent_escalated=sum(escalated for _, escalated in self._recent),
            budget_used_calls=used_calls,
            budget_limit_calls=limit_calls,
            suspended=suspended,
            teacher_answers=self._heard,
            teacher_unread=self._unread,
        )
