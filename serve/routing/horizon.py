"""How a budget that comes back all the time is spread over traffic that never ends.

On a lane's first day nothing comes back yet: the calls that are left are planned over the questions that are still to
come in that day, sooner rather than later. Afterwards each call comes back 24 hours after it was spent, so there is no
end to plan for and the horizon is always the coming 24 hours: a day's calls over a day's questions. Both follow the
same hours of the day, so their ratio, the share of questions that is bought, is the same at night and at noon.

A forecast is never right, so the ratio follows what is spent. The lane aims at 98 % of its calls being in use. Where
fewer are, it buys up to twice as many, gently, so that a quiet morning does not end in a burst; where more are, it
buys fewer, down to none at the last call, so that it raises its limit before the ledger refuses. None is not the end:
calls keep coming back, and the share rises again with the first of them.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from serve.settings import BudgetSettings
from store.policy import Allowance, outright_calls

_DAY_S: Final = 86_400.0
_BUCKET_S: Final = 300.0
_HOUR_BUCKETS: Final = 12
_BUSY_HOURS: Final = 8.0  # a day holds at least so many hours like the last one: a Monday is no Sunday
_IN_USE: Final = 0.98  # of the calls; the rest is leased and not yet spent, or left to chance
_CATCH_UP_S: Final = 8 * 3600.0  # in which unused calls are made up for; longer evens out yesterday's waves sooner
_FASTEST: Final = 2.0  # as a multiple of the even share
_NEW: Final = 0.05  # a lane that has used no more than this when its replica starts is on its first day
_MICRO: Final = 1_000_000


class Purse(Protocol):
    """What all replicas of a lane have used in the last 24 hours, as last heard."""

    @property
    def used_calls(self) -> int:
        """Calls, those included that are leased and not yet spent."""

    @property
    def used_usd_micro(self) -> int:
        """Millionths of a dollar; 0 where dollars are not limited."""


class Traffic:
    """The questions that this replica has seen in the last 24 hours, in buckets of five minutes."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self._buckets: deque[list[int]] = deque()  # [number, questions], oldest first; at most 288
        self._total = 0
        self._since_s: float | None = None

    def add(self, now_s: float) -> None:
        """Count one question (monotonic seconds)."""
        if self._since_s is None:
            self._since_s = now_s
        bucket = int(now_s // _BUCKET_S)
        if not self._buckets or self._buckets[-1][0] != bucket:
            self._buckets.append([bucket, 0])
        self._buckets[-1][1] += 1
        self._total += 1
        while self._buckets[0][0] <= bucket - _DAY_S // _BUCKET_S:
            self._total -= self._buckets.popleft()[1]

    def age_s(self, now_s: float) -> float:
        """How long ago the first question came."""
        return 0.0 if self._since_s is None else now_s - self._since_s

    def rows_per_day(self, now_s: float) -> float:
        """The last day's questions, extrapolated while there was less than a day; a busy hour counts at once."""
        seen_s = min(_DAY_S, max(_BUCKET_S, self.age_s(now_s)))
        newest = int(now_s // _BUCKET_S)
        last_hour = 0
        for bucket, count in reversed(self._buckets):
            if bucket <= newest - _HOUR_BUCKETS:
                break
            last_hour += count
        return max(self._total * _DAY_S / seen_s, last_hour * _BUSY_HOURS)


class DayHorizon:
    """Satisfies `serve.routing.budget.Horizon` for a budget of any 24 hours.

    Each replica plans for itself, with the calls that all of them have used. Measured traffic is the replica's own:
    with n replicas it is an n-th of the lane's, the plan wants n times too much, and nothing holds it back but how much
    is in use; calls are then spent at the hours at which they were spent the day before. So with several replicas set
    `rows_per_day`, which is the whole lane's. Set twice too high, about a fifth of the budget stays unspent.
    """

    def __init__(
        self,
        settings: BudgetSettings,
        purse: Purse,
        *,
        audit_ratio: float,
        rows_per_day: float | None,
        monotonic: Callable[[], float],
    ) -> None:
        """Start on the first day, until the ledger says otherwise.

        Args:
            settings: the budget; escalations may have what audits are not kept or expected to take.
            purse: what is used of it.
            audit_ratio: share of the student's answers that is audited, paid before any escalation.
            rows_per_day: the lane's traffic; None: measured.
            monotonic: seconds.
        """
        self._settings = settings
        self._purse = purse
        self._audit_ratio = audit_ratio
        self._rows_per_day = rows_per_day
        self._monotonic = monotonic
        self._traffic = Traffic()
        self._spent_before: bool | None = None  # None: the ledger has not answered yet

    def change(self, settings: BudgetSettings, audit_ratio: float) -> None:
        """Plan with another budget and share of audits from the next question on."""
        self._settings, self._audit_ratio = settings, audit_ratio

    def ledger_answered(self) -> None:
        """Take note of what is used; what is there the first time was spent before this replica came."""
        if self._spent_before is None:
            self._spent_before = self._used_ratio() > _NEW

    def allowance(self) -> Allowance:
        """What is left of the first day, or of the coming 24 hours. Counts one question."""
        now_s = self._monotonic()
        self._traffic.add(now_s)
        rows = self._rows_per_day or self._traffic.rows_per_day(now_s)
        calls = self._calls_per_day()
        reserved = calls * self._settings.audit_reserve_ratio
        audits = min(calls, self._audit_ratio * max(0.0, rows - calls))
        open_calls = calls - max(0.0, reserved - audits)  # what the ledger lets escalations and audits have together
        used = self._used_ratio() * calls
        age_s = self._traffic.age_s(now_s)
        if not self._spent_before and age_s < _DAY_S:
            rest = max(_DAY_S - age_s, _CATCH_UP_S) / _DAY_S  # no burst at its end: what is left then is not lost
            left = max(0, round(open_calls - used - audits * rest))
            return Allowance(
                calls_left=left,
                rows_left=rows * rest,
                bought=round(used),
                first=outright_calls(open_calls, self._rows_per_day),  # measured traffic is no forecast yet
            )
        share = _pull(used / open_calls) if open_calls else 0.0
        left = round((calls - max(reserved, audits)) * share)
        return Allowance(
            calls_left=left,
            rows_left=rows,
            bought=round(used),
            recurring=True,
        )

    def _used_ratio(self) -> float:
        """The part of the budget that is used, in calls or in dollars, whichever is more."""
        calls, usd = self._settings.calls_per_day, self._settings.usd_per_day
        ratio = self._purse.used_calls / calls if calls else 1.0
        if usd is not None:
            ratio = max(ratio, self._purse.used_usd_micro / (usd * _MICRO) if usd else 1.0)
        return ratio

    def _calls_per_day(self) -> float:
        """The calls that both limits allow, at what calls have cost so far."""
        calls, usd = self._settings.calls_per_day, self._settings.usd_per_day
        used_calls, used_micro = self._purse.used_calls, self._purse.used_usd_micro
        if usd is None or used_calls <= 0 or used_micro <= 0:
            return float(calls)
        return min(float(calls), usd * _MICRO * used_calls / used_micro)


def _pull(used_ratio: float) -> float:
    """What the even share is multiplied by: 1 where 98 % is used, more below, 0 where all is used."""
    if used_ratio <= _IN_USE:
        return min(_FASTEST, 1.0 + (_IN_USE - used_ratio) * _DAY_S / _CATCH_UP_S)
    return max(0.0, (1.0 - used_ratio) / (1.0 - _IN_USE))
