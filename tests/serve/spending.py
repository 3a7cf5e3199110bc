"""A budget-only lane on a simulated clock: random traffic, real decisions, and a real budget with its leases."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

import numpy as np
from numpy.typing import NDArray

from serve.routing.horizon import DayHorizon
from serve.settings import BudgetSettings
from serve.teacher.budget import Budget
from serve.teacher.ledger import CallKind
from serve.teacher.memory_ledger import MemoryLedger
from store.policy import BudgetView, Decision, decide_by_budget, escalation_limit

DAY_S = 86_400.0
START_S = 1_800_000_000.0
CALLS = 400
RESERVE = 0.1
FOR_ESCALATIONS = CALLS * (1 - RESERVE)


@dataclass
class Clock:
    """One clock for wall and monotonic time."""

    now_s: float = START_S

    def __call__(self) -> float:
        return self.now_s


class Replica:
    """A gateway's decision with a student whose uncertainty is random."""

    def __init__(
        self, ledger: MemoryLedger, limits: BudgetSettings, clock: Clock, *, audit_ratio: float, rows: float | None
    ) -> None:
        ids = count()
        self._name = f"{id(self)}"
        self.audit_ratio = audit_ratio
        self.budget = Budget(limits, ledger, now=clock, monotonic=clock, new_id=lambda: f"{self._name}-{next(ids)}")
        self.horizon = DayHorizon(limits, self.budget, audit_ratio=audit_ratio, rows_per_day=rows, monotonic=clock)
        self.recent: deque[float] = deque(maxlen=200)

    async def beat(self) -> None:
        await self.budget.tick()
        self.horizon.ledger_answered()

    async def ask(self, rng: Random) -> tuple[Decision, CallKind | None]:
        """Decide one question, and pay for it; the decision, and what was really spent."""
        uncertainty = rng.random()
        self.recent.append(uncertainty)
        allowance = self.horizon.allowance()
        decision = decide_by_budget(
            uncertainty,
            escalation_limit(self.recent, allowance),
            BudgetView(may_escalate=True, may_audit=True),
            cold=False,
            outright=allowance.outright,
            audit_ratio=self.audit_ratio,
            draw=rng.random(),
        )
        kind: CallKind | None = "audit" if decision.audit else "escalation" if decision.route == "teacher" else None
        if kind is None:
            return decision, None
        await self.budget.prepare(kind, 0.0)
        if not self.budget.allows(kind, 0.0):
            return decision, None
        self.budget.settle(self.budget.take(kind, 0.0), 0.0)
        return decision, kind


@dataclass
class Spent:
    """Days since the start at which calls were spent or refused."""

    days: int
    escalations: list[float] = field(default_factory=list)
    audits: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def quarters(self) -> NDArray[np.int_]:
        """[days, 4]: escalations."""
        edges = np.arange(4 * self.days + 1) / 4
        return np.histogram(self.escalations, edges)[0].reshape(-1, 4)

    def most_in_any_day(self) -> int:
        """The most calls of both kinds in any 24 hours."""
        times = np.sort(self.escalations + self.audits)
        before = np.searchsorted(times, times - 1.0, side="right")
        return int((np.arange(1, len(times) + 1) - before).max())


@dataclass(kw_only=True)
class Lane:
    """A lane on a simulated clock."""

    told: float | None = None  # the setting rows_per_day
    audit_ratio: float = 0.0
    replicas: int = 1  # take the questions in turn
    restart_at: float = math.inf  # day at which all of them start again and remember nothing
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self._limits = BudgetSettings(calls_per_day=CALLS, audit_reserve_ratio=RESERVE)
        self._ledger = MemoryLedger(self._limits, now=self.clock)
        self._gateways = self._started()
        self._beaten_s = -math.inf

    def _started(self) -> list[Replica]:
        return [
            Replica(self._ledger, self._limits, self.clock, audit_ratio=self.audit_ratio, rows=self.told)
            for _ in range(self.replicas)
        ]

    async def ask(self, number: int, day: float, rng: Random) -> tuple[Decision, CallKind | None]:
        """Let the next replica decide, after what time has brought."""
        if day >= self.restart_at:
            for gateway in self._gateways:
                await gateway.budget.close()
            self._gateways, self._beaten_s, self.restart_at = self._started(), -math.inf, math.inf
        if self.clock.now_s - self._beaten_s >= 60.0:
            for gateway in self._gateways:
                await gateway.beat()
            self._beaten_s = self.clock.now_s
        return await self._gateways[number % self.replicas].ask(rng)


def simulate(days: int, rows_per_day: Callable[[float], float], lane: Lane) -> Spent:
    """Send questions at random times, at a rate that may change with the day."""
    spent = Spent(days)

    async def main() -> None:
        rng = Random(1)
        for number in count():
            day = (lane.clock.now_s - START_S) / DAY_S
            if day >= days:
                return
            decision, kind = await lane.ask(number, day, rng)
            if kind is not None:
                (spent.audits if kind == "audit" else spent.escalations).append(day)
            elif decision.route == "teacher":
                spent.refused.append(day)
            lane.clock.now_s += rng.expovariate(rows_per_day(day) / DAY_S)

    asyncio.run(main())
    return spent
