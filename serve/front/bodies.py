"""Reading bodies: each within its size and pace, all of them within one bound on memory.

Over the bound the largest body that is still coming in is given up, so that whoever sends a little is not made to pay
for who holds much.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final, Literal

from starlette.requests import Request

from serve.front.errors import ApiError

_RETRY_AFTER_S: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """What bodies may take."""

    each_bytes: int = 4 << 20
    total_bytes: int = 64 << 20  # of all bodies that are coming in
    patience_s: float = 10.0  # for a body, and more for what has come of it:
    bytes_per_s: int = 32 << 10  # the slowest pace that is waited for


@dataclass(slots=True, eq=False)
class _Coming:
    """A body on its way."""

    clock: asyncio.Timeout
    started_s: float
    held: bytearray = field(default_factory=bytearray)
    ended: Literal["slow", "given_up"] = "slow"  # why, if its clock runs out


class Bodies:
    """All bodies that are coming in. Used from the event loop alone."""

    def __init__(self, limits: BodyLimits) -> None:
        """Nothing is coming yet."""
        self.limits = limits
        self.held_bytes = 0
        self._coming: set[_Coming] = set()

    async def read(self, request: Request) -> bytes:
        """The body of one request.

        Raises:
            ApiError: 413 over its bound, 408 where it comes too slowly, 503 where all bodies are over theirs.
            ClientDisconnect: the client hung up.
        """
        loop, limits = asyncio.get_running_loop(), self.limits
        started_s = loop.time()
        one: _Coming | None = None
        try:
            async with asyncio.timeout_at(started_s + limits.patience_s) as clock:
                one = _Coming(clock, started_s)
                self._coming.add(one)
                async for chunk in request.stream():
                    if len(one.held) + len(chunk) > limits.each_bytes:
                        raise ApiError(413, "request_too_large", f"the body is over {limits.each_bytes} bytes")
                    self._take(one, chunk)
                if one.ended == "given_up":  # by its own last chunk
                    raise _too_much()
                return bytes(one.held)
        except TimeoutError as error:
            if one is not None and one.ended == "given_up":
                raise _too_much() from error
            raise ApiError(408, "request_timeout", "the body came too slowly") from error
        finally:
            if one is not None:
                self._coming.discard(one)
                self.held_bytes -= len(one.held)

    def _take(self, one: _Coming, chunk: bytes) -> None:
        """Keep a chunk, and give up the largest bodies while all are over the bound."""
        one.held += chunk
        self.held_bytes += len(chunk)
        if one.ended == "slow":
            one.clock.reschedule(one.started_s + self.limits.patience_s + len(one.held) / self.limits.bytes_per_s)
        while self.held_bytes > self.limits.total_bytes and self._coming:
            largest = max(self._coming, key=lambda other: len(other.held))
            self._coming.discard(largest)
            self.held_bytes -= len(largest.held)
            largest.held = bytearray()
            largest.ended = "given_up"
            largest.clock.reschedule(asyncio.get_running_loop().time())


def _too_much() -> ApiError:
    message = "too much is being sent at once: send less, or again later"
    return ApiError(503, "overloaded", message, retry_after_s=_RETRY_AFTER_S)
