"""Ledgers on a clock that a test sets: the real script, whose only source of time is replaced."""

from dataclasses import dataclass, field
from typing import Any

import redis

from serve.settings import BudgetSettings
from serve.teacher import ledger
from serve.teacher.ledger import CallKind, Grant, Ledger, RedisLedger
from serve.teacher.memory_ledger import MemoryLedger
from serve.teacher.spent import Witness
from store.event import Lane

NOON_S = 1_800_000_000.0
LANE = Lane("acme", "intent")
NOBODY = Witness(name="nobody")
_TIME = "redis.call('TIME')[1]"
assert ledger._SCRIPT.count(_TIME) == 1  # the script reads no other clock


@dataclass
class Clock:
    """One clock for wall and monotonic time."""

    now_s: float = NOON_S

    def __call__(self) -> float:
        return self.now_s


class ClockedRedisLedger(RedisLedger):
    """The ledger in Redis, whose Redis lives at the clock's time."""

    def __init__(self, client: redis.Redis, settings: BudgetSettings, clock: Clock) -> None:
        super().__init__(client, LANE, settings)
        self._clock = clock
        self._script = client.register_script(ledger._SCRIPT.replace(_TIME, "ARGV[#ARGV]"))

    def _run(self, *arguments: Any) -> Grant:
        return super()._run(*arguments, int(self._clock()))


@dataclass
class Timed:
    """A ledger that is told the time with each call."""

    ledger: Ledger
    clock: Clock
    witness: Witness = field(default=NOBODY)

    @classmethod
    def in_memory(cls, settings: BudgetSettings) -> "Timed":
        clock = Clock()
        return cls(MemoryLedger(settings, now=clock), clock)

    @classmethod
    def in_redis(cls, client: redis.Redis, settings: BudgetSettings) -> "Timed":
        clock = Clock()
        return cls(ClockedRedisLedger(client, settings, clock), clock)

    def lease(self, lease_id: str, kind: CallKind, *, calls: int, usd_micro: int, now_s: float) -> Grant:
        self.clock.now_s = now_s
        return self.ledger.lease(lease_id, kind, calls=calls, usd_micro=usd_micro, witness=self.witness)

    def settle(self, lease_id: str, *, calls: int, usd_micro: int, now_s: float) -> Grant:
        self.clock.now_s = now_s
        return self.ledger.settle(lease_id, calls=calls, usd_micro=usd_micro, witness=self.witness)

    def used(self, now_s: float) -> Grant:
        self.clock.now_s = now_s
        return self.ledger.used(self.witness)
