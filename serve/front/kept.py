"""Where answers under an Idempotency-Key are kept: for all replicas in Redis, and a few in this process's memory."""

from collections import OrderedDict
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import redis

from store.errors import StoreUnavailableError
from store.event import Lane

KEEP_S: Final = 24 * 3600.0
_MS: Final = 1000
_LANE_BYTES: Final = 256 << 20
_MEMORY_BYTES: Final = 16 << 20
_SCRIPT: Final = (Path(__file__).parent / "once.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyClaim:
    """What asking for the right to answer under a key came to."""

    state: Literal["ours", "busy", "kept", "other"]  # other: the key was used for another body
    answers: bytes = b""  # all of them where they are kept; those of a first try that got some, where it is ours
    wait_s: float = 0.0  # until a busy one may be claimed


class Shared(Protocol):
    """What replicas share of one lane's answers. Each call blocks, may be repeated; StoreUnavailableError."""

    def claim(self, name: str, request: str, owner: str, hold_s: float) -> KeyClaim:
        """Ask for the right to answer, for so long."""

    def renew(self, name: str, owner: str, hold_s: float) -> None:
        """Hold it for longer."""

    def keep(self, name: str, request: str, owner: str, answers: bytes, *, complete: bool) -> bool:
        """Keep the answers for a day, and give the right back; false where another has taken it over meanwhile."""

    def release(self, name: str, owner: str) -> None:
        """Give the right back without answers."""


class RedisAnswers:
    """The answers that all replicas share; the oldest go first where a lane's are over 256 MiB."""

    def __init__(self, client: redis.Redis, lane: Lane, *, most_bytes: int = _LANE_BYTES) -> None:
        """Use an open client that has a socket time-out."""
        self._prefix = f"{{{lane.use_case}}}:{lane.tenant}:once"
        self._script = client.register_script(_SCRIPT)
        self._most_bytes = most_bytes

    def claim(self, name: str, request: str, owner: str, hold_s: float) -> KeyClaim:
        """See `Shared`."""
        state, answers, wait_ms = self._run(name, "claim", owner, request, ceil(hold_s * _MS))
        return KeyClaim(state=state.decode(), answers=answers, wait_s=wait_ms / _MS)

    def renew(self, name: str, owner: str, hold_s: float) -> None:
        """See `Shared`."""
        self._run(name, "renew", owner, "", ceil(hold_s * _MS))

    def keep(self, name: str, request: str, owner: str, answers: bytes, *, complete: bool) -> bool:
        """See `Shared`."""
        keep_ms = int(KEEP_S * _MS)
        state, _, _ = self._run(name, "keep", owner, request, answers, int(complete), keep_ms, self._most_bytes)
        return bool(state == b"done")

    def release(self, name: str, owner: str) -> None:
        """See `Shared`."""
        self._run(name, "release", owner, "")

    def _run(self, name: str, *arguments: str | bytes | int) -> Any:
        keys = [f"{self._prefix}:{name}", f"{self._prefix}:order", f"{self._prefix}:bytes"]
        try:
            return self._script(keys=keys, args=list(arguments))
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What this process gave under one key."""

    request: str
    answers: bytes
    complete: bool
    until_s: float  # monotonic


class Memory:
    """The latest answers of this process: what is left while Redis does not answer."""

    def __init__(self, *, most_bytes: int = _MEMORY_BYTES) -> None:
        """Nothing is remembered yet."""
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, Remembered] = OrderedDict()

    def get(self, name: str, now_s: float) -> Remembered | None:
        """What was given under a key, for a day."""
        found = self._kept.get(name)
        return found if found is not None and now_s < found.until_s else None

    def put(self, name: str, one: Remembered) -> None:
        """Remember, and forget the oldest where there are too many."""
        self._forget(self._kept.pop(name, None))
        self._kept[name] = one
        self._bytes += len(one.answers)
        while self._bytes > self._most_bytes and self._kept:
            self._forget(self._kept.popitem(last=False)[1])

    def _forget(self, one: Remembered | None) -> None:
        if one is not None:
            self._bytes -= len(one.answers)
