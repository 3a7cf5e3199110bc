"""What the teacher may cost: a rolling 24 hours, counted in Redis for all replicas, spent from small leases.

A replica leases a few calls (and the most they can cost) at a time and spends them without asking anybody, so that a
decision and its spending are one step. With Redis down it spends what it had leased and nothing more. A killed
replica's lease stays spent: the budget may be under-used by that much for a day, and is never exceeded. Buckets are
five minutes; a lease must be used within one, and a bucket counts until 24 hours after its leases could last be used.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

from serve.settings import BudgetSettings
from serve.teacher.ledger import BUCKET_S, MICRO, CallKind, Grant, Ledger
from serve.teacher.spent import OwnSpending
from store.errors import StoreUnavailableError
from store.log.lazy import logger

_log: Final = logger(__name__)
_ASK_AGAIN_S: Final = 1.0
PATIENCE_S: Final = 1.0  # so long a lease is waited for by who can be answered without
LAST_PATIENCE_S: Final = 5.0  # and by who cannot


@dataclass(slots=True, kw_only=True, eq=False)
class _Lease:
    lease_id: str
    kind: CallKind
    calls: int
    usd_micro: int
    granted_s: float  # monotonic
    open_spends: int = 0
    ended: bool = False  # what it left unspent is no longer counted as our own


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Refill:
    """A lease that is being asked for."""

    task: asyncio.Task[None]
    asked_s: float  # on the loop's clock


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spend:
    """One call taken from a lease, to be settled once its cost is known."""

    lease: _Lease
    bound_micro: int


class Budget:
    """A replica's hand in one lane's purse. Used from the event loop alone; Redis is spoken to in threads."""

    def __init__(
        self,
        settings: BudgetSettings,
        ledger: Ledger,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        new_id: Callable[[], str],
        call: Callable[..., Awaitable[Any]] = asyncio.to_thread,
        spent_path: Path | None = None,
    ) -> None:
        """Start with nothing leased.

        Args:
            settings: the limits.
            ledger: counts for all replicas, by a clock of its own.
            now: Unix seconds; only for how long this replica was away.
            monotonic: seconds, by which a lease grows old.
            new_id: names of leases, and of the replica.
            call: runs what blocks beside the event loop.
            spent_path: where this replica keeps its own record; None: nowhere.
        """
        self.settings = settings
        self._ledger = ledger
        self._own = OwnSpending(new_name=new_id, now=now, monotonic=monotonic, path=spent_path)
        self._monotonic = monotonic
        self._new_id = new_id
        self._call = call
        self._chunk = _chunk(settings)
        self._leases: dict[CallKind, _Lease] = {}
        self._closing: list[_Lease] = []
        self._changes = 0  # of the limits
        self._ask_at_s: dict[CallKind, float] = {}
        self._refills: dict[CallKind, _Refill] = {}
        self.binds = False  # the last escalation that asked was refused
        self._unheard = False  # the ledger has not answered since it was last asked
        self._held = False  # it answered that it lost something, and grants nothing before all have told it
        self.used_calls = 0  # by all replicas, leases included, when Redis was last asked
        self.used_usd_micro = 0  # the same in millionths of a dollar, where dollars are limited

    def change(self, settings: BudgetSettings, ledger: Ledger) -> None:
        """Other limits, from the next call on: what is leased under the old ones is given back."""
        self.settings, self._ledger, self._chunk = settings, ledger, _chunk(settings)
        self._changes += 1
        for kind in list(self._leases):
            self._retire(kind)
        self._ask_at_s.clear()
        self.binds = False

    async def prepare(self, kind: CallKind, bound_usd: float, *, patience_s: float = PATIENCE_S) -> None:
        """Lease more if this call needs it.

        A refusal or a Redis that is down is asked again a second later. The lease of one that hangs is used when it
        comes.

        Args:
            kind: of the call.
            bound_usd: the most that it costs.
            patience_s: how old the wait for a lease may be for this call to share it.
        """
        clock = asyncio.get_running_loop().time
        while not self.allows(kind, bound_usd):
            refill = self._refills.get(kind)
            if refill is None:
                if self.exhausted(kind):
                    return
                self._retire(kind)
                refill = _Refill(task=asyncio.create_task(self._lease(kind, _micro(bound_usd))), asked_s=clock())
                self._refills[kind] = refill
                refill.task.add_done_callback(lambda _: self._refills.pop(kind))
            done, _ = await asyncio.wait({refill.task}, timeout=max(0.0, refill.asked_s + patience_s - clock()))
            if not done:
                self._unheard = True
                return
            refill.task.result()

    def allows(self, kind: CallKind, bound_usd: float) -> bool:
        """Whether a call that costs at most `bound_usd` may be taken now."""
        lease = self._leases.get(kind)
        return (
            lease is not None
            and self._monotonic() - lease.granted_s < BUCKET_S
            and lease.calls > 0
            and lease.usd_micro >= self._counted(_micro(bound_usd))
        )

    @property
    def silent(self) -> bool:
        """Whether what is left is unknown: the ledger does not answer, or is counting anew."""
        return self._unheard or self._held

    @property
    def suspended(self) -> bool:
        """Whether escalations are withheld: the budget binds, or is unknown and what was leased is used up."""
        return self.binds or (self.silent and not self.allows("escalation", 0.0))

    def exhausted(self, kind: CallKind) -> bool:
        """Whether the last lease of this kind was refused less than a second ago."""
        return self._monotonic() < self._ask_at_s.get(kind, 0.0)

    def take(self, kind: CallKind, bound_usd: float) -> Spend:
        """Spend one call; only right after `allows` said yes, with no await between."""
        lease = self._leases[kind]
        bound_micro = self._counted(_micro(bound_usd))
        lease.calls -= 1
        lease.usd_micro -= bound_micro
        lease.open_spends += 1
        return Spend(lease=lease, bound_micro=bound_micro)

    def settle(self, spend: Spend, cost_usd: float | None) -> None:
        """Say what a taken call cost: None when it was surely not billed, so that it may be used again."""
        spend.lease.open_spends -= 1
        if cost_usd is None:
            spend.lease.calls += 1
            spend.lease.usd_micro += spend.bound_micro
        else:
            spend.lease.usd_micro += spend.bound_micro - self._counted(_micro(cost_usd))

    async def tick(self) -> None:
        """Give back leases that are too old to use, and read what all replicas have used."""
        try:
            await self._read()
        except StoreUnavailableError:
            self._unheard = True
            raise
        if self.silent and not self.allows("escalation", 0.0):
            await self.prepare("escalation", 0.0)  # a lease is the proof that escalations are possible again
        else:
            self._unheard = False

    async def _read(self) -> None:
        for kind, lease in list(self._leases.items()):
            if self._monotonic() - lease.granted_s >= BUCKET_S:
                self._retire(kind)
        await self._give_back()
        used = await self._call(self._ledger.used, self._own.witness())
        self._see(used)
        open_to_escalations = self.settings.calls_per_day * (1 - self.settings.audit_reserve_ratio)
        if used.used_calls < open_to_escalations and self.settings.usd_per_day is None:
            self.binds = False

    async def close(self) -> None:
        """Give every unspent lease back; with Redis down they stay spent."""
        if self._refills:
            await asyncio.wait({refill.task for refill in self._refills.values()}, timeout=PATIENCE_S)
        for kind in list(self._leases):
            self._retire(kind)
        try:
            await self._give_back()
        except StoreUnavailableError:
            _log.warning("leases were not given back and stay spent for a day", leases=len(self._closing))

    async def _lease(self, kind: CallKind, bound_micro: int) -> None:
        lease_id, asked_s, changes = self._new_id(), self._monotonic(), self._changes
        usd_micro = self._counted(bound_micro) * self._chunk
        try:
            grant: Grant = await self._call(
                self._ledger.lease,
                lease_id,
                kind,
                calls=self._chunk,
                usd_micro=usd_micro,
                witness=self._own.witness(),
            )
            self._see(grant)
            self._own.leased(asked_s, grant.calls, grant.usd_micro)
            if grant.calls:
                await self._call(self._own.write, self._own.record())  # before any of it is spent
        except StoreUnavailableError:
            _log.warning("no lease while Redis does not answer", kind=kind)
            self._unheard = True
            self._ask_at_s[kind] = self._monotonic() + _ASK_AGAIN_S
            return
        self._unheard = False
        lease = _Lease(lease_id=lease_id, kind=kind, calls=grant.calls, usd_micro=grant.usd_micro, granted_s=asked_s)
        if changes != self._changes:  # it was asked for under other limits, and says nothing about these
            self._closing.append(lease)
            with suppress(StoreUnavailableError):  # then the next beat gives it back
                await self._give_back()
            return
        refused = grant.calls == 0 or grant.usd_micro < self._counted(bound_micro)
        if refused:
            self._closing.append(lease)
            self._ask_at_s[kind] = self._monotonic() + _ASK_AGAIN_S
        else:
            self._leases[kind] = lease
        if kind == "escalation":
            self.binds = refused and not grant.held

    def _retire(self, kind: CallKind) -> None:
        lease = self._leases.pop(kind, None)
        if lease is not None:
            self._closing.append(lease)

    async def _give_back(self) -> None:
        """Settle retired leases whose calls have all come home."""
        home = [lease for lease in self._closing if lease.open_spends == 0]
        for lease in home:
            if not lease.ended:
                lease.ended = True
                self._own.gave_back(lease.granted_s, lease.calls, lease.usd_micro)
        for lease in home:
            grant = await self._call(
                self._ledger.settle,
                lease.lease_id,
                calls=lease.calls,
                usd_micro=lease.usd_micro,
                witness=self._own.witness(),
            )
            self._see(grant)
            if lease in self._closing:  # a beat and a late lease may settle it together
                self._closing.remove(lease)
        if home:
            await self._call(self._own.write, self._own.record())

    def _see(self, grant: Grant) -> None:
        self._own.heard(leases=grant.leases, clock_s=grant.now_s)
        self.used_calls, self.used_usd_micro = grant.used_calls, grant.used_usd_micro
        self._held = grant.held
        if grant.recounted:
            _log.warning("Redis had lost calls of this replica; they count again", calls=grant.recounted)

    def _counted(self, micro: int) -> int:
        """Dollars are counted only where they are limited."""
        return micro if self.settings.usd_per_day is not None else 0


def _chunk(settings: BudgetSettings) -> int:
    """The calls of one lease."""
    return max(1, min(20, settings.calls_per_day // 100))


def _micro(usd: float) -> int:
    return ceil(usd * MICRO)
