"""Audits: the student has answered, and the teacher is asked in the background. Bounded, and drained at the end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from serve.escalation import Question
from store.log.lazy import logger
from store.secrets import unit_hash

_log: Final = logger(__name__)

Audit = Callable[[], Awaitable[None]]


def keyed_draw(key: bytes) -> Callable[[Question], float]:
    """The draw that decides whether a question is audited: in [0, 1), and a function of the question and the key.

    A client chooses event ids (`Idempotency-Key`): without the key it cannot tell which are audited, and as the text
    counts too, what it learns with one text says nothing of another.
    """
    return lambda question: audit_draw(key, question.event_id, question.item_id)


def audit_draw(key: bytes, event_id: str, item_id: str) -> float:
    """The draw of `keyed_draw` for one question."""
    return unit_hash(key.hex(), f"{event_id}/{item_id}")


class Audits:
    """A bounded queue of audits and the few tasks that work through it."""

    def __init__(self, *, size: int, workers: int) -> None:
        """Prepare; `start` needs the running loop."""
        self._queue: asyncio.Queue[Audit] = asyncio.Queue(size)
        self._count = workers
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the workers."""
        self._workers = [asyncio.create_task(self._work(), name=f"audit-{index}") for index in range(self._count)]

    @property
    def has_room(self) -> bool:
        """Whether one more may be submitted. Asked before the draw, so that the propensity stays true."""
        return not self._queue.full()

    @property
    def waiting(self) -> int:
        """How many wait for a worker."""
        return self._queue.qsize()

    def submit(self, audit: Audit) -> None:
        """Queue one; only after `has_room` said yes, with no await between."""
        self._queue.put_nowait(audit)

    async def settled(self) -> None:
        """Wait until every audit that was submitted has been done."""
        await self._queue.join()

    async def drain(self, deadline_s: float) -> int:
        """Wait for what was submitted, at most `deadline_s` seconds, and stop; returns how many were left."""
        try:
            await asyncio.wait_for(self.settled(), deadline_s)
        except TimeoutError:
            _log.error("audits were cut off: raise the grace", waiting=self._queue.qsize())
        left = self._queue.qsize()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        return left

    async def _work(self) -> None:
        while True:
            audit = await self._queue.get()
            try:
                await audit()
            except Exception:  # noqa: BLE001 - the next one must still be asked
                _log.exception("an audit failed")
            finally:
                self._queue.task_done()
