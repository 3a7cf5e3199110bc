"""What one replica has done for one lane, since its start and lately: for its heartbeat, and for the lane's books."""

from collections import deque
from typing import Literal
from uuid import uuid4

from store.control import REMEMBERED_REQUESTS, REMEMBERED_S, Heartbeat
from store.money.deeds import Deeds, call_of, verdict_of
from store.money.tally import Tally

CountedAs = Literal["student", "teacher", "nobody"]
_BUSY = "overloaded"  # the code of a refusal that `shed` counts


class Counts:
    """Running totals, the last 500 requests of the last five minutes, and what is to be written into the books."""

    def __init__(self, tally: Tally | None = None) -> None:
        """Start at zero; without a tally nothing is meant for the books."""
        self.tally = tally or Tally(lambda: uuid4().hex)
        self._requests = 0
        self._escalated = 0
        self._withheld = 0
        self._heard = 0
        self._unread = 0
        self._recent: deque[tuple[float, bool]] = deque(maxlen=REMEMBERED_REQUESTS)

    def add(self, *, now_s: float, served_by: CountedAs, withheld: bool, chars: int = 0, code: str = "") -> None:
        """Count one question.

        Args:
            now_s: monotonic seconds.
            served_by: who answered.
            withheld: the student did, since the budget did not allow the teacher.
            chars: of its text.
            code: of the refusal, where nobody answered.
        """
        escalated = served_by == "teacher"
        self._requests += 1
        self._escalated += escalated
        self._withheld += withheld
        self._recent.append((now_s, escalated))
        if served_by != "nobody":
            self.tally.add(Deeds(student=not escalated, teacher=escalated, chars=chars))
        elif code != _BUSY:
            self.tally.add(Deeds(unanswered=1))

    def shed(self) -> None:
        """Count one request, or one text of it, that was turned away because the gateway is busy."""
        self.tally.add(Deeds(refused=1))

    def replayed(self, texts: int) -> None:
        """Count texts whose answers were given again."""
        self.tally.add(Deeds(cached=texts))

    def paid(self, usd: float, *, audit: bool, bounded: bool) -> None:
        """Count one call of the teacher that was or may have been billed; `bounded`: by the most it can have cost."""
        self.tally.add(call_of(usd, audit=audit, bounded=bounded))

    def judged(self, usd: float, *, bounded: bool) -> None:
        """As `paid`, of a call of the referee."""
        self.tally.add(verdict_of(usd, bounded=bounded))

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
