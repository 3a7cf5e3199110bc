"""What one replica knows of its own spending, by its own clock and in a small file: Redis may forget.

Redis can be emptied, restored from an older copy, or have its clock set. What a replica has leased and not given back
in the last day it says with each word to the ledger, which counts again what it has lost (`budget.lua`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from store.log.lazy import logger
from store.registry.files.durable import read_kept, replace

_log: Final = logger(__name__)
_SLOT_S: Final = 30.0  # leases of one slot are kept as one
# The ledger forgets a lease between 24 h 5 min and 24 h 10 min after it; clocks that differ by half a minute in a day
# must not make a lease look lost that was only forgotten.
_WINDOW_S: Final = 24 * 3600.0 + 300.0 - 30.0
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
_Age = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What a replica knows whatever Redis says."""

    name: str  # of its record with the ledger
    calls: int = 0  # leased and not given back in the last day
    usd_micro: int = 0
    leases: int = 0  # the most leases of all replicas that it has seen counted
    clock_s: float | None = None  # what the ledger's clock should say now; None: it has not heard of it yet


class _HalfMinute(msgspec.Struct):
    """The leases of half a minute."""

    calls: int = 0
    usd_micro: int = 0


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file."""

    name: Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z-]{1,64}$")]
    at_s: Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]  # Unix seconds
    leases: _Count
    slots: list[tuple[_Age, int, int]]  # age in s when it was written, calls, micro-dollars


class OwnSpending:
    """The replica's own record of one lane. Used from the event loop alone; `write` may run beside it."""

    def __init__(
        self,
        *,
        new_name: Callable[[], str],
        now: Callable[[], float],
        monotonic: Callable[[], float],
        path: Path | None = None,
    ) -> None:
        """Go on where the file ends, if there is one.

        Args:
            new_name: a name that no other replica has, where there is no file.
            now: Unix seconds; only for how long the process was away.
            monotonic: seconds.
            path: the file; None: nothing outlives the process.
        """
        self._now = now
        self._monotonic = monotonic
        self._path = path
        self._slots: dict[int, _HalfMinute] = {}  # by number, oldest first
        self._leases = 0
        self._ahead_s: float | None = None  # the ledger's clock before our monotonic one
        self._unwritten = False  # the last write failed and was said
        kept = read_kept(path, _Kept) if path is not None else None
        self._name = new_name() if kept is None else kept.name
        if kept is not None:
            self._leases = kept.leases
            gone_s = max(0.0, now() - kept.at_s)  # a wall clock that went back forgets nothing
            for age_s, calls, usd_micro in sorted(kept.slots, reverse=True):
                self._slots[int((monotonic() - max(0.0, age_s) - gone_s) // _SLOT_S)] = _HalfMinute(calls, usd_micro)

    def witness(self) -> Witness:
        """What to tell the ledger."""
        now_s = self._monotonic()
        for number in [number for number in self._slots if number * _SLOT_S <= now_s - _WINDOW_S]:
            del self._slots[number]
        return Witness(
            name=self._name,
            calls=max(0, sum(slot.calls for slot in self._slots.values())),
            usd_micro=max(0, sum(slot.usd_micro for slot in self._slots.values())),
            leases=self._leases,
            clock_s=None if self._ahead_s is None else now_s + self._ahead_s,
        )

    def heard(self, *, leases: int, clock_s: float) -> None:
        """Take note of the ledger's count of leases, and of its clock."""
        self._leases = max(self._leases, leases)
        self._ahead_s = clock_s - self._monotonic()

    def leased(self, at_s: float, calls: int, usd_micro: int) -> None:
        """Count a lease (monotonic seconds)."""
        slot = self._slots.setdefault(int(at_s // _SLOT_S), _HalfMinute())
        slot.calls += calls
        slot.usd_micro += usd_micro

    def gave_back(self, leased_at_s: float, calls: int, usd_micro: int) -> None:
        """Take away what a lease left unspent (below zero: what was spent beyond it)."""
        slot = self._slots.get(int(leased_at_s // _SLOT_S))
        if slot is not None:
            slot.calls -= calls
            slot.usd_micro -= usd_micro

    def record(self) -> bytes | None:
        """What `write` is to keep; None where there is no file."""
        if self._path is None:
            return None
        now_s = self._monotonic()
        slots = [
            (now_s - number * _SLOT_S, slot.calls, slot.usd_micro)
            for number, slot in self._slots.items()
            if slot.calls or slot.usd_micro
        ]
        return msgspec.json.encode(_Kept(name=self._name, at_s=self._now(), leases=self._leases, slots=slots))

    def write(self, record: bytes | None) -> None:
        """Replace the file, durably. On a disk that takes nothing the word ends with the process; said once."""
        if record is None or self._path is None:
            return
        try:
            replace(self._path, record)
        except OSError as error:
            if not self._unwritten:
                _log.warning("what this replica spent is not on disk", path=str(self._path), error=str(error))
            self._unwritten = True
        else:
            self._unwritten = False
