"""Runs a backtest's asks in warm worker processes: one that fails costs its own run, and none outlives us.

Each worker opens the log once and then takes ask after ask. The first embeds the texts for all of them.
"""

import math
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from ops.backtest.records import Ask
from ops.backtest.runs.work import Done, Failure, ReplaySource
from ops.show.progress import Board, Show
from trainer.worker import Worker, WorkerDiedError, WorkerStoppedError, WorkFailedError

_ENTRY: Final = "ops.backtest.runs.work:work_on"
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolResult:
    """What became of all asks."""

    failed: list[Failure]
    missing: list[Ask]  # not done, failed ones included
    interrupted: bool


@dataclass(slots=True, kw_only=True)
class _State:
    """What all threads know; changed under `lock` alone."""

    waiting: deque[Ask]
    lock: threading.Lock = field(default_factory=threading.Lock)
    embedding: threading.Lock = field(default_factory=threading.Lock)  # held by whoever opens the log
    embedded: bool = False
    rows: dict[int, int] = field(default_factory=dict)  # worker -> rows of its ask that are done
    done: set[Ask] = field(default_factory=set)
    finished: list[Done] = field(default_factory=list)  # to be handed on
    failed: list[Failure] = field(default_factory=list)

    def next(self) -> Ask | None:
        """The next ask, if there is one."""
        with self.lock:
            return self.waiting.popleft() if self.waiting else None

    def fail(self, why: Failure) -> None:
        """Note a failure; without a log nothing more can be run."""
        with self.lock:
            self.failed.append(why)
            if why.ask is None and not self.embedded:
                self.waiting.clear()


def in_order(asks: Sequence[Ask]) -> list[Ask]:
    """Seed 0 of every budget first, so that a backtest that is stopped has the whole curve; long runs before short."""
    return sorted(asks, key=lambda ask: (ask.seed, -ask.budget))


class Pool:
    """Worker processes for the asks of one backtest."""

    def __init__(self, source: ReplaySource, *, jobs: int, rows: int) -> None:
        """Start nothing yet.

        Args:
            source: opened once in each worker.
            jobs: workers, at most.
            rows: of the log, for the progress.
        """
        self._source, self._jobs, self._rows = source, jobs, rows

    def run(self, asks: Sequence[Ask], keep: Callable[[Done], None], show: Show) -> PoolResult:
        """Do all asks, or as many as are done until Ctrl-C or SIGTERM. Call it from the main thread.

        Args:
            asks: in the order in which they are begun.
            keep: takes each run when it has ended.
            show: takes the progress, a few times a second.
        """
        state = _State(waiting=deque(asks))
        workers = [Worker(_ENTRY) for _ in range(min(self._jobs, len(asks)))]
        with _interrupts() as stop:
            with _deaf():
                for worker in workers:
                    worker.warm()
            threads = [
                threading.Thread(target=self._work, args=(at, worker, state, stop), name=f"backtest-{at}")
                for at, worker in enumerate(workers)
            ]
            try:
                for thread in threads:
                    thread.start()
                while alive := [thread for thread in threads if thread.is_alive()]:
                    alive[0].join(_POLL_S)
                    self._hand_on(state, keep, show, len(asks))
            finally:
                stopped = stop.is_set()
                stop.set()
                for thread in threads:
                    thread.join()
            self._hand_on(state, keep, show, len(asks))
        missing = [ask for ask in asks if ask not in state.done]
        return PoolResult(failed=state.failed, missing=missing, interrupted=stopped)

    def _work(self, at: int, worker: Worker, state: _State, stop: threading.Event) -> None:
        """One worker's asks, one after another; a worker that has died is replaced by the next ask."""
        opened: int | None = None  # by which process
        try:
            while not stop.is_set() and (ask := state.next()) is not None:
                try:
                    if opened is None or opened != worker.pid:
                        opened = self._open(at, worker, state, stop)
                    if opened is None:
                        with state.lock:
                            state.waiting.appendleft(ask)
                        return
                    self._do(at, worker, ask, state, stop)
                except (WorkerDiedError, WorkFailedError) as error:
                    state.fail(Failure(ask=ask, why=str(error)))
        except WorkerStoppedError:
            pass  # what was under way is missing
        finally:
            worker.close()

    def _open(self, at: int, worker: Worker, state: _State, stop: threading.Event) -> int | None:
        """Let a worker open the log; None: it cannot. The first to do so embeds for all; the others find it on disk."""
        with state.embedding:
            if stop.is_set() or (state.failed and not state.embedded):
                return None
            try:
                failure = self._ask(at, worker, self._source, state, stop)
            except WorkerDiedError as error:
                failure = Failure(ask=None, why=str(error))
        if isinstance(failure, Failure):
            state.fail(failure)
            return None
        with state.lock:
            state.embedded = True
        return worker.pid

    def _do(self, at: int, worker: Worker, ask: Ask, state: _State, stop: threading.Event) -> None:
        found = self._ask(at, worker, ask, state, stop)
        if isinstance(found, Failure):
            state.fail(found)
        elif found is not None:
            with state.lock:
                state.done.add(ask)
                state.finished.append(found)

    def _ask(
        self, at: int, worker: Worker, work: ReplaySource | Ask, state: _State, stop: threading.Event
    ) -> Done | Failure | None:
        def told(_what: str, rows: int) -> None:
            with state.lock:
                state.rows[at] = rows

        try:
            found: Done | Failure | None = worker.run(work, timeout_s=math.inf, stop=stop, tick=lambda: None, told=told)
            return found
        finally:
            with state.lock:
                state.rows[at] = 0

    def _hand_on(self, state: _State, keep: Callable[[Done], None], show: Show, asked: int) -> None:
        """Give away the runs that have ended, and show how far the others are."""
        with state.lock:
            finished, state.finished = state.finished, []
            board = self._board(state, asked)
        for done in finished:
            keep(done)
        show(board)

    def _board(self, state: _State, asked: int) -> Board:
        under_way = sum(state.rows.values())
        if not state.embedded:
            return Board(phase="embedding", rows=under_way, total=self._rows)
        ended = len(state.done) + sum(failure.ask is not None for failure in state.failed)
        rows = min(ended * self._rows + under_way, asked * self._rows)
        note = f"{ended} of {asked} runs ended"
        return Board(phase="replaying", rows=rows, total=asked * self._rows, note=note)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and a terminal that closes set, instead of ending us wherever we are.

    Under `nohup` the terminal may close.
    """
    stop = threading.Event()
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = [number for number in _STOP_SIGNALS if not (nohup and number == signal.SIGHUP)]
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _deaf() -> Iterator[None]:
    """What is started meanwhile ignores Ctrl-C and hang-ups from its first moment: we hear them and end it."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
