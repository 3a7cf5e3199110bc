"""Versions in service: a request pins its slot at admission, one assignment publishes, the old one drains.

Everything here runs on the event loop's thread, which is why an assignment is atomic and nothing takes a lock.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from store.student.loaded import Loaded


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """One version in memory, and how many requests hold it."""

    version: str
    student: Loaded
    device: str = "cpu"  # where it computes
    ready: Callable[[], None] = lambda: None  # called before it computes
    token_s: float = 0.0  # what one token of a full batch took when it was warmed up; 0: not known
    tokens: float = 1.0  # that a question had there
    pins: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def drained(self, deadline_s: float) -> bool:
        """Wait until no request holds the slot; False when the deadline (seconds from now) passed first."""
        if self.pins == 0:
            return True
        self._idle.clear()
        try:
            await asyncio.wait_for(self._idle.wait(), deadline_s)
        except TimeoutError:
            return False
        return True

    def unpin(self) -> None:
        """One request less."""
        self.pins -= 1
        if self.pins == 0:
            self._idle.set()


class Slots:
    """A lane's serving version and the warm one beside it (the previous or, after a rollback, the next)."""

    def __init__(self) -> None:
        """Start cold."""
        self.current: Slot | None = None
        self.spare: Slot | None = None

    @property
    def version(self) -> str | None:
        """The serving version; None while cold."""
        return None if self.current is None else self.current.version

    @contextmanager
    def pinned(self) -> Iterator[Slot | None]:
        """The serving slot, held until the request is answered; None while cold."""
        slot = self.current
        if slot is None:
            yield None
            return
        slot.pins += 1
        try:
            yield slot
        finally:
            slot.unpin()

    def warm(self, version: str) -> Slot | None:
        """The slot that holds a version, if one does."""
        return next((slot for slot in (self.current, self.spare) if slot and slot.version == version), None)

    def publish(self, slot: Slot) -> tuple[float, Slot | None]:
        """Put a loaded slot into service.

        Returns:
            The seconds that the assignment took, and the slot that nobody needs any more.
        """
        old, unneeded = self.current, None if self.spare is slot else self.spare
        started = time.perf_counter()
        self.current, self.spare = slot, old
        return time.perf_counter() - started, unneeded

    def keep_warm(self, slot: Slot) -> Slot | None:
        """Hold a loaded slot beside the serving one; returns the slot that it replaces."""
        replaced, self.spare = self.spare, slot
        return replaced
