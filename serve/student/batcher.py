"""One thread runs every forward pass: texts that arrive together share one, and a batch never mixes versions.

Three things can go wrong, and they are told apart. A student that *fails* on a text (raises, or gives no numbers) fails
that text alone: the rest of its batch is computed again without it. One that *hangs* in a forward pass is down for
everybody until it returns, and nobody waits for it a second time. One that is merely *busy* is no reason to pay anybody
else: who waits in vain is refused.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from serve.student.line import Job, Line, Outcome, Ticket, TooLong
from serve.student.slot import Slot, opinions
from store.event import TextInput
from store.log.lazy import logger

_log: Final = logger(__name__)
_PASS_SHARE: Final = 0.05  # of the time-out that one forward pass should take at most; slow students get small batches
_HANGS: Final = 10.0  # times what a pass should have taken, and the time-out at least: then it hangs
_PATIENCE: Final = 8.0  # times what a request's own texts take, and the time-out: so long may they wait
_TICK_S: Final = 0.25
_LOG_EVERY_S: Final = 10.0
_FORGET: Final = 0.8  # of what earlier passes took, with each new one


class StudentFailedError(Exception):
    """The student failed on this text, or hangs. Ask the teacher."""


class StudentBusyError(Exception):
    """The text waited in vain behind others. Refuse it: a busy student is no reason to pay the teacher."""

    def __init__(self, wait_s: float) -> None:
        """Say how long the line is, in seconds."""
        super().__init__(f"the student is busy: {wait_s:.1f} s of texts wait")
        self.wait_s = wait_s


class Batcher:
    """Collects texts for a few milliseconds and hands each slot's share to its student at once."""

    def __init__(
        self, *, max_batch: int, wait_s: float, timeout_s: float, observe: Callable[[int, float], None]
    ) -> None:
        """Prepare the threads.

        Args:
            max_batch: texts in one forward pass.
            wait_s: how long a batch that is not full waits for more.
            timeout_s: after which a forward pass hangs, unless as many texts always take longer.
            observe: told of each forward pass: texts and seconds.
        """
        self.turn = max(1, max_batch // 2)  # texts of one request in a batch while others wait
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._observe = observe
        self._wake = threading.Condition()  # guards all that follows
        self._line = Line(self.turn)
        self._closing = False
        self._running: list[Job] = []
        self._passes = 0
        self._clock_s = 0.0  # seconds of the watch's own: a process that was frozen has not waited
        self._stuck_s = 0.0  # of these, what the forward pass that runs has taken
        self._seconds, self._texts = 0.0, 0.0  # of the last forward passes, the older the less
        self._log_again_s = 0.0
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)
        self._watch_thread = threading.Thread(target=self._watch, name="forward-watch", daemon=True)
        self._closed = threading.Event()

    def start(self) -> None:
        """Start the threads."""
        self._thread.start()
        self._watch_thread.start()

    def alive(self) -> bool:
        """Whether the threads run."""
        return self._thread.is_alive() and self._watch_thread.is_alive()

    def close(self) -> None:
        """Finish what is queued and stop the threads; wait for them a bounded time."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(self._timeout_s)
        self._closed.set()
        if self._watch_thread.is_alive():
            self._watch_thread.join(self._timeout_s)

    @property
    def waiting(self) -> int:
        """Texts in the line."""
        return len(self._line)

    @property
    def text_s(self) -> float:
        """What one text has taken of late, in seconds; 0 before the first."""
        return self._seconds / self._texts if self._texts else 0.0

    @property
    def hangs_s(self) -> float:
        """For how long the student has hung in a forward pass; 0 while it does not."""
        return self._stuck_s if self._stuck_s >= self._hang_s() else 0.0

    def expect(self, text_s: float) -> None:
        """What one text will take, until a forward pass has been measured."""
        if not self._texts:
            self._seconds, self._texts = text_s, 1.0

    async def ask(self, slot: Slot, text: str, ticket: Ticket | None = None) -> Outcome:
        """The pinned student's output for one redacted text; `ticket` is its request's.

        Raises:
            StudentFailedError: the student failed on it, or hangs.
            StudentBusyError: it has waited for too long.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        place = ticket or Ticket(texts=1)
        with self._wake:  # while the student hangs, the next look of the watch tells
            expires_s = self._clock_s + self._timeout_s + _PATIENCE * place.texts * self.text_s
            self._line.put(Job(slot=slot, text=text, ticket=place, expires_s=expires_s, loop=loop, future=future))
            if len(self._line) in {1, self._limit()}:
                self._wake.notify()
        try:
            return await future
        finally:
            place.texts -= 1

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Serve one batch; False when told to stop. A function of its own, so that no local keeps an old slot alive."""
        batch = self._gather()
        for share in _by_slot(batch):
            self._forward(share)
        return bool(batch) or not self._closing

    def _gather(self) -> list[Job]:
        """The next batch, once it is full or has waited; empty when told to stop, or when nobody waits any more."""
        with self._wake:
            while not self._line and not self._closing:
                self._wake.wait()
            deadline_s = time.monotonic() + self._wait_s
            while len(self._line) < self._limit() and not self._closing:
                if not self._wake.wait(max(0.0, deadline_s - time.monotonic())):
                    break
            return self._line.take(self._limit())

    def _limit(self) -> int:
        """Texts in one forward pass: as many as it may have and can read in good time."""
        text_s = self.text_s
        return self._max_batch if text_s == 0.0 else max(1, min(self._max_batch, int(self._pass_s() / text_s)))

    def _pass_s(self) -> float:
        return _PASS_SHARE * self._timeout_s

    def _forward(self, jobs: Sequence[Job]) -> None:
        """Run one slot's share of a batch. Whatever a student raises reaches the requests, never the thread."""
        with self._wake:
            self._running, self._passes = list(jobs), self._passes + 1
        started_s = time.monotonic()
        _deliver(jobs, self._outcomes(jobs, give_up_s=started_s + self._timeout_s))
        seconds = time.monotonic() - started_s
        with self._wake:
            self._running, self._stuck_s = [], 0.0
            self._seconds = _FORGET * self._seconds + min(seconds, self._timeout_s)
            self._texts = _FORGET * self._texts + len(jobs)
        self._observe(len(jobs), seconds)

    def _outcomes(self, jobs: Sequence[Job], *, give_up_s: float) -> list[Outcome | StudentFailedError]:
        """What the student makes of each text; one that it fails on is found by halving, within a bounded time."""
        slot = jobs[0].slot
        try:
            return list(_read(slot, [job.text for job in jobs]))
        except Exception as error:  # noqa: BLE001 - whatever a student raises, the thread serves on
            if len(jobs) == 1 or time.monotonic() > give_up_s:
                self._log_failure(slot, len(jobs))
                return [_failure(error, slot) for _ in jobs]
        self._stuck_s = 0.0  # it came back
        half = len(jobs) // 2
        return [
            *self._outcomes(jobs[:half], give_up_s=give_up_s),
            *self._outcomes(jobs[half:], give_up_s=give_up_s),
        ]

    def _log_failure(self, slot: Slot, texts: int) -> None:
        """Within an `except`: where it failed, now and then; each failed text is counted by its answer."""
        if time.monotonic() >= self._log_again_s:
            self._log_again_s = time.monotonic() + _LOG_EVERY_S
            _log.exception("the student failed", version=slot.version, texts=texts)

    def _watch(self) -> None:
        """Tell who waits when the student hangs, or when it has been too busy for them."""
        tick_s = min(_TICK_S, self._timeout_s / 5)
        before_s, watched = time.monotonic(), 0
        while not self._closed.wait(tick_s):
            now_s = time.monotonic()
            watched, before_s = self._look(watched, min(now_s - before_s, 2 * tick_s)), now_s

    def _look(self, watched: int, passed_s: float) -> int:
        """Look once, at the pass that ran the last time; returns the one that runs. As `_turn`, it keeps nothing."""
        with self._wake:
            self._clock_s += passed_s
            if self._running and self._passes == watched:
                self._stuck_s += passed_s
            hung = [*self._running, *self._line.clear()] if self.hangs_s else []
            late = self._line.remove(self._clock_s)
            watched = self._passes
        if hung:
            self._say_that_it_hangs(hung)
        if late:
            _deliver(late, [StudentBusyError(len(late) * self.text_s) for _ in late])
        return watched

    def _say_that_it_hangs(self, jobs: Sequence[Job]) -> None:
        waiting = [job for job in jobs if not job.future.done()]
        if waiting:
            _log.error("the student hangs", version=waiting[0].slot.version, texts=len(waiting))
            _deliver(waiting, [self._hanging() for _ in waiting])

    def _hanging(self) -> StudentFailedError:
        return StudentFailedError(f"the student gave no answer within {self._timeout_s} s")

    def _hang_s(self) -> float:
        return max(self._timeout_s, _HANGS * len(self._running) * self.text_s)


def _read(slot: Slot, texts: Sequence[str]) -> list[Outcome]:
    """One forward pass over the texts that fit."""
    long = [slot.student.too_long(TextInput(text=text)) for text in texts]
    short = [text for text, cut in zip(texts, long, strict=True) if not cut]
    found = iter(opinions(slot.student.predict(short), slot.student.labels, len(short)) if short else [])
    return [TooLong() if cut else next(found) for cut in long]


def _failure(error: Exception, slot: Slot) -> StudentFailedError:
    return StudentFailedError(f"{type(error).__name__} in the forward pass of {slot.version}")


def _by_slot(batch: Sequence[Job]) -> list[list[Job]]:
    shares: dict[int, list[Job]] = {}
    for job in batch:
        shares.setdefault(id(job.slot), []).append(job)
    return list(shares.values())


def _deliver(jobs: Sequence[Job], outcomes: Sequence[Outcome | StudentFailedError | StudentBusyError]) -> None:
    """Wake the requests, with one call into the loop for the whole batch."""

    def settle() -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.future.done():  # gave up waiting
                continue
            if isinstance(outcome, StudentFailedError | StudentBusyError):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    try:
        jobs[0].loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed: nobody waits any more
        _log.warning("a forward pass ended after the gateway had stopped", texts=len(jobs))
