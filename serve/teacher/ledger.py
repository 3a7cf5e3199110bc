"""The ledger that counts what a lane spends: its protocol, and the one in Redis that all replicas share.

The time is Redis', whatever the replicas' clocks say. Where Redis has lost something, each replica says what it knows
of its own spending (`spent.py`), and it counts again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import redis

from serve.settings import BudgetSettings
from serve.teacher.spent import Witness
from store.errors import StoreUnavailableError
from store.event import Lane
from store.log.lazy import logger

CallKind = Literal["escalation", "audit"]

_log: Final = logger(__name__)
BUCKET_S: Final = 300
BUCKETS_KEPT: Final = 24 * 3600 // BUCKET_S + 2
MICRO: Final = 1_000_000  # of a dollar
_LEASE_TTL_S: Final = 4 * BUCKET_S
_DAMAGED: Final = ("DAMAGED", "hash value is not an integer")  # what the script ends with then
_SCRIPT: Final = (Path(__file__).parent / "budget.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What Redis let a replica have, and what all replicas have used with it."""

    calls: int
    usd_micro: int
    used_calls: int
    used_usd_micro: int
    leases: int  # ever granted
    now_s: float  # by the ledger's clock
    recounted: int = 0  # calls that the ledger had lost, and counts again
    held: bool = False  # nothing is granted for a while, so that every replica can say what it spent


class Ledger(Protocol):
    """Counts one lane's spending. Each call blocks, is idempotent, and raises StoreUnavailableError.

    With each call the replica says what it knows by itself, so that a ledger that lost something counts it again.
    """

    def lease(self, lease_id: str, kind: CallKind, *, calls: int, usd_micro: int, witness: Witness) -> Grant:
        """Up to so many calls and millionths of a dollar; the same id gets the same grant again."""

    def settle(self, lease_id: str, *, calls: int, usd_micro: int, witness: Witness) -> Grant:
        """Give back what a lease left unspent (below zero: what was spent beyond it)."""

    def used(self, witness: Witness) -> Grant:
        """What counts against the last 24 hours; grants nothing."""


class RedisLedger:
    """The ledger that all replicas share."""

    def __init__(self, client: redis.Redis, lane: Lane, settings: BudgetSettings) -> None:
        """Use an open client that has a socket time-out."""
        self._prefix = f"{{{lane.use_case}}}:{lane.tenant}:budget"
        self._client = client
        self._script = client.register_script(_SCRIPT)
        calls, usd = settings.calls_per_day, settings.usd_per_day
        usd_micro = -1 if usd is None else int(usd * MICRO)
        reserve = settings.audit_reserve_ratio
        self._limits = [calls, usd_micro, int(calls * reserve), max(0, int(usd_micro * reserve))]

    def lease(self, lease_id: str, kind: CallKind, *, calls: int, usd_micro: int, witness: Witness) -> Grant:
        """See `Ledger`."""
        return self._run(lease_id, "lease", witness, kind, calls, usd_micro, *self._limits, _LEASE_TTL_S)

    def settle(self, lease_id: str, *, calls: int, usd_micro: int, witness: Witness) -> Grant:
        """See `Ledger`."""
        return self._run(lease_id, "settle", witness, calls, usd_micro)

    def used(self, witness: Witness) -> Grant:
        """See `Ledger`."""
        return self._run("none", "used", witness)

    def _run(self, lease_id: str, verb: str, witness: Witness, *arguments: str | int) -> Grant:
        keys = [self._prefix, f"{self._prefix}:lease:{lease_id}", f"{self._prefix}:of:{witness.name}"]
        clock_s = -1 if witness.clock_s is None else int(witness.clock_s)
        known = [witness.calls, witness.usd_micro, witness.leases, clock_s]
        sent = [verb, BUCKET_S, BUCKETS_KEPT, *known, *arguments]
        try:
            found = self._asked(keys, sent)
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error
        return Grant(
            calls=found[0],
            usd_micro=found[1],
            used_calls=found[2],
            used_usd_micro=found[3],
            leases=found[4],
            recounted=found[5],
            now_s=found[6],
            held=bool(found[7]),
        )

    def _asked(self, keys: list[str], arguments: list[str | int]) -> Any:
        """What the script says; a damaged ledger is begun anew, for every replica knows what it spent itself."""
        try:
            return self._script(keys=keys, args=arguments)
        except redis.ResponseError as error:
            if not any(said in str(error) for said in _DAMAGED):
                raise
            why = str(error)
        counts = [self._prefix, *self._client.scan_iter(match=f"{self._prefix}:*", count=1000)]
        self._client.delete(*counts)
        _log.error("the ledger was damaged and begins anew; every replica counts again what it spent", why=why)
        return self._script(keys=keys, args=arguments)
