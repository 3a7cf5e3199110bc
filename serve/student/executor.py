"""One thread runs every forward pass of a device: questions that arrive together share one; versions are never mixed.

Three things can go wrong, and they are told apart. A student that *fails* on a question (raises, or gives no numbers)
fails that question alone: the rest of its batch is computed again without it. One that *hangs* in a forward pass is
down for everybody until it returns, and nobody waits for it a second time. One that is merely *busy* is no reason to
pay anybody else: who waits in vain is refused.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from serve.student.line import Hears, Job, Line, StudentReply, Ticket, TooLong
from serve.student.pace import ReadingPace
from serve.student.slot import Slot
from store.event import TaskInput
from store.log.lazy import logger

_log: Final = logger(__name__)
_HANGS: Final = 10.0  # times what a pass should have taken, and the time-out at least: then it hangs
_PATIENCE: Final = 8.0  # times what a request's own questions take, past the time-out: so long may they wait
_TICK_S: Final = 0.25
_LOG_EVERY_S: Final = 10.0


class StudentFailedError(Exception):
    """The student failed on this question, or hangs. Ask the teacher."""


class StudentBusyError(Exception):
    """The question waited in vain behind others. Refuse it: a busy student is no reason to pay the teacher."""

    def __init__(self, wait_s: float) -> None:
        """Say how long the line is, in seconds."""
        super().__init__(f"the student is busy: {wait_s:.1f} s of questions wait")
        self.wait_s = wait_s


class Executor:
    """Collects the questions of requests that are coming in, and hands each slot's share to its student at once."""

    def __init__(
        self,
        *,
        max_batch: int,
        max_tokens: int,
        wait_s: float,
        timeout_s: float,
        line_wait_s: float,
        observe: Callable[[int, int, float], None],
        name: str = "",
    ) -> None:
        """Prepare the threads.

        Args:
            max_batch: questions in one forward pass.
            max_tokens: of these together, unless one has more.
            wait_s: how long a batch that is not full waits for the rest of its requests.
            timeout_s: after which a forward pass hangs, unless as much always takes longer.
            line_wait_s: what was believed to wait no longer than this was let in, also where it is past the time-out.
            observe: told of each forward pass: questions, tokens and seconds.
            name: of the device, for its threads.
        """
        self.pace = ReadingPace(max_batch=max_batch, max_tokens=max_tokens, timeout_s=timeout_s)
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._line_wait_s = line_wait_s
        self._observe = observe
        self._wake = threading.Condition()  # guards all that follows
        self._line = Line()
        self._closing = False
        self._running: list[Job] = []
        self._passes = 0
        self._clock_s = 0.0  # seconds of the watch's own: a process that was frozen has not waited
        self._stuck_s = 0.0  # of these, what the forward pass that runs has taken
        self._log_again_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"forward-{name}", daemon=True)
        self._watch_thread = threading.Thread(target=self._watch, name=f"forward-watch-{name}", daemon=True)
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
    def turn(self) -> int:
        """Tokens of one request that go before the next one has its turn."""
        return self.pace.turn

    @property
    def waiting(self) -> int:
        """Questions in the line."""
        return len(self._line)

    @property
    def hangs_s(self) -> float:
        """For how long the student has hung in a forward pass; 0 while it does not."""
        return self._stuck_s if self._stuck_s >= self._hang_s() else 0.0

    async def ask(self, slot: Slot, value: TaskInput, ticket: Ticket | None = None, *, tokens: int = 1) -> StudentReply:
        """The pinned student's opinion of one redacted question.

        Args:
            slot: with the version.
            value: the question.
            ticket: its request's; what the student has read of it is taken off.
            tokens: about how many it reads.

        Raises:
            StudentFailedError: the student failed on it, or hangs.
            StudentBusyError: it has waited for too long.
        """
        future: asyncio.Future[StudentReply] = asyncio.get_running_loop().create_future()
        place = ticket or Ticket(tokens=tokens)
        self._put(slot, value, place, tokens, future)
        try:
            return await future
        finally:
            place.tokens -= tokens

    def _put(
        self,
        slot: Slot,
        value: TaskInput,
        place: Ticket,
        tokens: int,
        future: asyncio.Future[StudentReply],
        *,
        hears: Hears | None = None,
        expects: bool = False,
    ) -> None:
        """Put a question into the line; what its student makes of it goes into `future`."""
        with self._wake:  # while the student hangs, the next look of the watch tells
            own_s = max(place.tokens, tokens) * self.pace.token_s
            expires_s = self._clock_s + max(self._timeout_s, self._line_wait_s) + _PATIENCE * own_s
            job = Job(
                slot=slot,
                value=value,
                tokens=tokens,
                ticket=place,
                expires_s=expires_s,
                loop=future.get_loop(),
                future=future,
                hears=hears,
                expects=expects,
            )
            self._line.put(job)
            if len(self._line) == 1 or self._goes():
                self._wake.notify()

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
            while not self._goes() and not self._closing:
                if not self._wake.wait(max(0.0, deadline_s - time.monotonic())):
                    break
            return self._line.take(self.pace.load)

    def _goes(self) -> bool:
        """Whether a pass need not wait for more: it is full, or nothing more of its requests is on its way.

        For requests that may come it does not wait: while it runs, they gather for the next one.
        """
        return self._line.complete() or self._line.fills(self.pace.load)

    def _forward(self, jobs: Sequence[Job]) -> None:
        """Run one slot's share of a batch. Whatever a student raises reaches the requests, never the thread."""
        with self._wake:
            self._running, self._passes = list(jobs), self._passes + 1
        started_s = time.monotonic()
        deliver(jobs, self._outcomes(jobs, give_up_s=started_s + self._timeout_s))
        seconds = time.monotonic() - started_s
        tokens = _tokens(jobs)
        with self._wake:
            self._running, self._stuck_s = [], 0.0
            self.pace.took(min(seconds, self._timeout_s), questions=len(jobs), tokens=tokens)
        self._observe(len(jobs), tokens, seconds)

    def _outcomes(self, jobs: Sequence[Job], *, give_up_s: float) -> list[StudentReply | StudentFailedError]:
        """What the student makes of each question; one that it fails on is found by halving, within a bounded time."""
        slot = jobs[0].slot
        try:
            return list(_read(slot, [job.value for job in jobs]))
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

    def _log_failure(self, slot: Slot, questions: int) -> None:
        """Within an `except`: where it failed, now and then; each failed question is counted by its answer."""
        if time.monotonic() >= self._log_again_s:
            self._log_again_s = time.monotonic() + _LOG_EVERY_S
            _log.exception("the student failed", version=slot.version, questions=questions)

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
            wait_s = (_tokens([*self._running, *late]) + self._line.tokens) * self.pace.token_s
        if hung:
            self._say_that_it_hangs(hung)
        if late:
            deliver(late, [StudentBusyError(wait_s) for _ in late])
        return watched

    def _say_that_it_hangs(self, jobs: Sequence[Job]) -> None:
        waiting = [job for job in jobs if not job.future.done()]
        if waiting:
            _log.error("the student hangs", version=waiting[0].slot.version, questions=len(waiting))
            deliver(waiting, [self._hanging() for _ in waiting])

    def _hanging(self) -> StudentFailedError:
        return StudentFailedError(f"the student gave no answer within {self._timeout_s} s")

    def _hang_s(self) -> float:
        return max(self._timeout_s, _HANGS * _tokens(self._running) * self.pace.token_s)


def _tokens(jobs: Sequence[Job]) -> int:
    return sum(job.tokens for job in jobs)


def _read(slot: Slot, values: Sequence[TaskInput]) -> list[StudentReply]:
    """One forward pass over the questions that fit."""
    long = [slot.student.too_long(value) for value in values]
    short = [value for value, cut in zip(values, long, strict=True) if not cut]
    slot.ready()
    found = list(slot.student.look(short)) if short else []
    if len(found) != len(short):
        message = f"a student had {len(found)} opinions of {len(short)} questions"
        raise ValueError(message)
    rest = iter(found)
    return [TooLong() if cut else next(rest) for cut in long]


def _failure(error: Exception, slot: Slot) -> StudentFailedError:
    return StudentFailedError(f"{type(error).__name__} in the forward pass of {slot.version}")


def _by_slot(batch: Sequence[Job]) -> list[list[Job]]:
    shares: dict[int, list[Job]] = {}
    for job in batch:
        shares.setdefault(id(job.slot), []).append(job)
    return list(shares.values())


def deliver(jobs: Sequence[Job], outcomes: Sequence[StudentReply | StudentFailedError | StudentBusyError]) -> None:
    """Wake the requests, with one call into the loop for the whole batch."""

    def settle() -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.future.done():  # gave up waiting
                continue
            if isinstance(outcome, StudentFailedError | StudentBusyError):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    if not jobs:
        return
    try:
        jobs[0].loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed: nobody waits any more
        _log.warning("a forward pass ended after the gateway had stopped", questions=len(jobs))
