"""The budget's ledger in memory: for one process that replays or tests, by the same rules as Redis keeps."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from serve.settings import BudgetSettings
from serve.teacher.ledger import BUCKET_S, BUCKETS_KEPT, CallKind, Grant
from serve.teacher.spent import Witness

_MICRO: Final = 1_000_000


@dataclass(slots=True)
class _Spent:
    """Calls and millionths of a dollar by bucket."""

    calls: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    usd_micro: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def total(self, unit: Literal["calls", "usd_micro"]) -> int:
        """All that counts."""
        return sum((self.calls if unit == "calls" else self.usd_micro).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lease:
    """What was granted, and when."""

    bucket: int
    kind: CallKind
    calls: int
    usd_micro: int


class MemoryLedger:
    """Satisfies `serve.teacher.budget.Ledger`; it forgets nothing before the process ends, so it holds nobody."""

    def __init__(self, settings: BudgetSettings, *, now: Callable[[], float], buckets_kept: int = BUCKETS_KEPT) -> None:
        """Nothing is spent yet.

        Args:
            settings: the limits, of any window.
            now: seconds, by a clock of any start: what Redis' own is to the one in Redis.
            buckets_kept: the window in buckets of five minutes; a day as in production, unless said otherwise.
        """
        self._settings = settings
        self._kept = buckets_kept
        self._all, self._audits = _Spent(), _Spent()
        self._leases: dict[str, _Lease] = {}
        self._now = now
        self._newest = 0
        self._granted = 0

    def lease(self, lease_id: str, kind: CallKind, *, calls: int, usd_micro: int, witness: Witness) -> Grant:  # noqa: ARG002
        """See `Ledger`."""
        self._forget()
        if (known := self._leases.get(lease_id)) is not None:
            return self._grant(known.calls, known.usd_micro)
        limit, reserve = self._settings, self._settings.audit_reserve_ratio
        usd_limit = None if limit.usd_per_day is None else int(limit.usd_per_day * _MICRO)
        granted = self._room(calls, limit.calls_per_day, reserve, "calls", kind)
        granted_micro = usd_micro if usd_limit is None else self._room(usd_micro, usd_limit, reserve, "usd_micro", kind)
        if granted == 0 or (granted_micro == 0 and usd_micro > 0):
            granted = granted_micro = 0
        else:
            self._granted += 1
        self._add(self._newest, kind, granted, granted_micro)
        self._leases[lease_id] = _Lease(bucket=self._newest, kind=kind, calls=granted, usd_micro=granted_micro)
        return self._grant(granted, granted_micro)

    def settle(self, lease_id: str, *, calls: int, usd_micro: int, witness: Witness) -> Grant:  # noqa: ARG002
        """See `Ledger`."""
        self._forget()
        lease = self._leases.pop(lease_id, None)
        if lease is not None:  # in a bucket that was forgotten it is forgotten with the next call
            self._add(lease.bucket, lease.kind, -calls, -usd_micro)
        return self._grant(0, 0)

    def used(self, witness: Witness) -> Grant:  # noqa: ARG002
        """See `Ledger`."""
        self._forget()
        return self._grant(0, 0)

    def _grant(self, calls: int, usd_micro: int) -> Grant:
        return Grant(
            calls=calls,
            usd_micro=usd_micro,
            used_calls=sum(self._all.calls.values()),
            used_usd_micro=sum(self._all.usd_micro.values()),
            leases=self._granted,
            now_s=self._now(),
        )

    def _room(self, asked: int, limit: int, reserve: float, unit: Literal["calls", "usd_micro"], kind: CallKind) -> int:
        left = limit - self._all.total(unit)
        if kind == "escalation":
            left -= max(0, int(limit * reserve) - self._audits.total(unit))
        return max(0, min(asked, left))

    def _add(self, bucket: int, kind: CallKind, calls: int, usd_micro: int) -> None:
        for spent in (self._all, self._audits) if kind == "audit" else (self._all,):
            spent.calls[bucket] += calls
            spent.usd_micro[bucket] += usd_micro

    def _forget(self) -> None:
        """Buckets that are out of the window; time never runs backwards here."""
        self._newest = max(self._newest, int(self._now() // BUCKET_S))
        for spent in (self._all, self._audits):
            for counts in (spent.calls, spent.usd_micro):
                for bucket in [bucket for bucket in counts if bucket <= self._newest - self._kept]:
                    del counts[bucket]
