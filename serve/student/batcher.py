"""One thread runs every forward pass: texts that arrive together share one, and a batch never mixes versions."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from serve.student.slot import Opinion, Slot, opinions

_log: Final = structlog.get_logger(__name__)


class StudentFailedError(Exception):
    """The forward pass failed or took too long. Ask the teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLong:
    """The text does not fit the student."""


Outcome = Opinion | TooLong


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    slot: Slot
    text: str
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Outcome]


class Batcher:
    """Collects texts for a few milliseconds and hands each slot's share to its student at once."""

    def __init__(
        self, *, max_batch: int, wait_s: float, timeout_s: float, observe: Callable[[int, float], None]
    ) -> None:
        """Prepare the thread.

        Args:
            max_batch: texts in one forward pass.
            wait_s: how long a batch that is not full waits for more.
            timeout_s: after which a text's student counts as failed.
            observe: told of each forward pass: texts and seconds.
        """
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._observe = observe
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Finish what is queued and stop the thread; wait for it a bounded time."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(self._timeout_s)

    async def ask(self, slot: Slot, text: str) -> Outcome:
        """The pinned student's output for one redacted text.

        Raises:
            StudentFailedError: the forward pass failed, or gave no answer in time.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._jobs.put(_Job(slot=slot, text=text, loop=loop, future=future))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError as error:
            message = f"the student gave no answer within {self._timeout_s} s"
            raise StudentFailedError(message) from error

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Serve one batch; False when told to stop. A function of its own, so that no local keeps an old slot alive."""
        first = self._jobs.get()
        if first is None:
            return False
        batch, last = self._gather(first)
        for share in _by_slot(batch):
            self._forward(share)
        return not last

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        """A batch that begins with `first`, and whether the thread was told to stop."""
        batch = [first]
        deadline = time.monotonic() + self._wait_s
        while len(batch) < self._max_batch:
            try:
                job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
        return batch, False

    def _forward(self, jobs: Sequence[_Job]) -> None:
        """Run one slot's share of a batch. Whatever a student raises reaches the requests, never the thread."""
        slot = jobs[0].slot
        started = time.perf_counter()
        try:
            long = [slot.student.too_long(job.text) for job in jobs]
            texts = [job.text for job, cut in zip(jobs, long, strict=True) if not cut]
            found = iter(opinions(slot.student.predict(texts), slot.student.labels, len(texts)) if texts else [])
            outcomes: list[Outcome] = [TooLong() if cut else next(found) for cut in long]
        except Exception as error:  # noqa: BLE001 - whatever a student raises, the thread serves on
            _log.exception("the student failed", version=slot.version, texts=len(jobs))
            failure = StudentFailedError(f"{type(error).__name__} in the forward pass of {slot.version}")
            _deliver(jobs, [failure] * len(jobs))
            return
        self._observe(len(jobs), time.perf_counter() - started)
        _deliver(jobs, outcomes)


def _by_slot(batch: Sequence[_Job]) -> list[list[_Job]]:
    shares: dict[int, list[_Job]] = {}
    for job in batch:
        shares.setdefault(id(job.slot), []).append(job)
    return list(shares.values())


def _deliver(jobs: Sequence[_Job], outcomes: Sequence[Outcome | StudentFailedError]) -> None:
    """Wake the requests, with one call into the loop for the whole batch."""

    def settle() -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.future.done():  # gave up waiting
                continue
            if isinstance(outcome, StudentFailedError):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    try:
        jobs[0].loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed: nobody waits any more
        _log.warning("a forward pass ended after the gateway had stopped", texts=len(jobs))
