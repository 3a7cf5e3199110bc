"""Runs a backtest's asks in worker processes: one that fails costs its own run, and none outlives us.

Each worker opens the log once and then takes ask after ask. The first embeds the texts for all of them.
"""

import importlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection as pipes
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ops.backtest.log import Log
from ops.backtest.records import Answers, Ask, HardTopic, Run
from ops.show.progress import Board, Show
from store.errors import UnderstudyError

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S: Final = 0.2
_END_S: Final = 2.0
_TELL_EVERY_S: Final = 0.2
_TRACEBACK_CHARS: Final = 2000

Seen = Callable[[int, int], None]  # rows done, rows


class Replaying(Protocol):
    """A log that can be replayed; `ops.backtest.replay.Replay` is the real one."""

    @property
    def log(self) -> Log:
        """What is replayed."""

    @property
    def features(self) -> NDArray[np.float32]:
        """[rows of the log, any], once they are prepared."""

    def prepare(self, progress: Seen) -> None:
        """Embed what is not embedded yet."""

    def run(self, ask: Ask, progress: Seen) -> tuple[Run, Answers]:
        """Replay the log once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """How a worker comes by its log: by a callable that is imported there alone."""

    entry: str  # module:callable
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def open(self) -> Replaying:
        """Import and call it."""
        module, _, name = self.entry.partition(":")
        opened: Replaying = getattr(importlib.import_module(module), name)(*self.arguments, **self.options)
        return opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A run that has ended."""

    run: Run
    answers: Answers
    topics: list[HardTopic]  # of seed 0 alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong, for a person."""

    ask: Ask | None  # None: the log could not be opened or embedded
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of all asks."""

    failed: list[Failure]
    missing: list[Ask]  # not done, failed ones included
    interrupted: bool


_Said = int | Done | Failure | None  # rows done; a run; what went wrong; the texts are embedded


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection
    ask: Ask | None = None
    rows: int = 0


@dataclass(slots=True, kw_only=True)
class _State:
    """What the parent knows."""

    waiting: deque[Ask]
    workers: list[_Worker] = field(default_factory=list)
    done: set[Ask] = field(default_factory=set)
    failed: list[Failure] = field(default_factory=list)
    embedded: bool = False


def in_order(asks: Sequence[Ask]) -> list[Ask]:
    """Seed 0 of every budget first, so that a backtest that is stopped has the whole curve; long runs before short."""
    return sorted(asks, key=lambda ask: (ask.seed, -ask.budget))


class Pool:
    """Worker processes for the asks of one backtest."""

    def __init__(self, source: Source, *, jobs: int, rows: int) -> None:
        """Start nothing yet.

        Args:
            source: opened once in each worker.
            jobs: workers, at most.
            rows: of the log, for the progress.
        """
        self._source, self._jobs, self._rows = source, jobs, rows
        self._context = multiprocessing.get_context("spawn")

    def run(self, asks: Sequence[Ask], keep: Callable[[Done], None], show: Show) -> Outcome:
        """Do all asks, or as many as are done until Ctrl-C or SIGTERM. Call it from the main thread.

        Args:
            asks: in the order in which they are begun.
            keep: takes each run when it has ended.
            show: takes the progress, a few times a second.
        """
        state = _State(waiting=deque(asks))
        with _interrupts() as stop:
            try:
                for _ in range(min(self._jobs, len(asks))):
                    state.workers.append(self._start())
                _tell(state.workers[0], None)
                while state.workers and not stop.is_set():
                    show(self._board(state, len(asks)))
                    self._listen(state, keep)
                show(self._board(state, len(asks)))
            finally:
                _dismiss(state, *state.workers)
        missing = [ask for ask in asks if ask not in state.done]
        return Outcome(failed=state.failed, missing=missing, interrupted=stop.is_set())

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._source), name="backtest", daemon=True)
        with _deaf():
            process.start()
        theirs.close()
        return _Worker(process=process, connection=ours)

    def _listen(self, state: _State, keep: Callable[[Done], None]) -> None:
        """Take what the workers say within a moment."""
        by_connection = {id(worker.connection): worker for worker in state.workers}
        for heard in pipes.wait([worker.connection for worker in state.workers], timeout=_POLL_S):
            worker = by_connection[id(heard)]
            if worker not in state.workers:
                continue
            try:
                said: _Said = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(state, worker)
                continue
            match said:
                case int():
                    worker.rows = said
                case None:
                    _begin(state, worker)
                case Failure():
                    state.failed.append(said)
                    _give(state, worker) if said.ask is not None else _lose(state, worker)
                case Done():
                    state.done.add(said.run.ask)
                    keep(said)
                    _give(state, worker)

    def _bury(self, state: _State, worker: _Worker) -> None:
        """A worker has died: say so, and put another in its place if it was at work on an ask."""
        worker.process.join(_END_S)
        why = f"the process died (exit code {worker.process.exitcode})"
        state.failed.append(Failure(ask=worker.ask, why=why))
        _lose(state, worker)
        if worker.ask is not None and state.waiting:
            fresh = self._start()
            state.workers.append(fresh)
            _tell(fresh, None)

    def _board(self, state: _State, asked: int) -> Board:
        if not state.embedded:
            return Board(phase="embedding", rows=sum(one.rows for one in state.workers), total=self._rows)
        ended = len(state.done) + sum(failure.ask is not None for failure in state.failed)
        under_way = sum(one.rows for one in state.workers if one.ask is not None)
        rows = min(ended * self._rows + under_way, asked * self._rows)
        note = f"{ended} of {asked} runs ended"
        return Board(phase="replaying", rows=rows, total=asked * self._rows, note=note)


def _begin(state: _State, worker: _Worker) -> None:
    """The first worker to be ready has embedded for all; the others find it on disk."""
    if not state.embedded:
        state.embedded = True
        for other in state.workers:
            if other is not worker:
                _tell(other, None)
    _give(state, worker)


def _give(state: _State, worker: _Worker) -> None:
    """The next ask, or the end."""
    worker.ask, worker.rows = (state.waiting.popleft() if state.waiting else None), 0
    if worker.ask is None:
        _dismiss(state, worker)
    else:
        _tell(worker, worker.ask)


def _lose(state: _State, worker: _Worker) -> None:
    """Go on without a worker; without any of them where not even the texts could be embedded."""
    _dismiss(state, *([worker] if state.embedded else state.workers))


def _tell(worker: _Worker, what: Ask | None) -> None:
    with suppress(OSError):  # it has died: its closed pipe is heard next
        worker.connection.send(what)


def _dismiss(state: _State, *workers: _Worker) -> None:
    """End workers, and wait until they are gone."""
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_END_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
    state.workers = [worker for worker in state.workers if worker not in workers]


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


def _serve(connection: Connection, source: Source) -> None:
    """The worker's loop: None asks for the embedding, an ask for a run; it ends with the pipe."""
    threading.Thread(target=_end_with_parent, daemon=True, name="parent-watch").start()
    tell = _teller(connection)
    with suppress(EOFError, OSError):
        try:
            replay = source.open()
            connection.recv()
            replay.prepare(tell)
        except Exception as error:  # noqa: BLE001 - the parent reports it whatever it is
            connection.send(Failure(ask=None, why=_told(error)))
            return
        connection.send(None)
        while True:
            connection.send(_answer(replay, connection.recv(), tell))


def _answer(replay: Replaying, ask: Ask, tell: Seen) -> Done | Failure:
    try:
        run, answers = replay.run(ask, tell)
        return Done(run=run, answers=answers, topics=_topics(replay, answers) if ask.seed == 0 else [])
    except Exception as error:  # noqa: BLE001 - one run's failure is data
        return Failure(ask=ask, why=_told(error))


def _topics(replay: Replaying, answers: Answers) -> list[HardTopic]:
    from ops.backtest.scores import hard_topics  # noqa: PLC0415 - it needs faiss, which workers alone load

    return hard_topics(replay.log, replay.features, answers)


def _teller(connection: Connection) -> Seen:
    """Says how many rows are done, a few times a second."""
    next_s = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal next_s
        if done >= total or time.monotonic() >= next_s:
            next_s = time.monotonic() + _TELL_EVERY_S
            connection.send(done)

    return tell


def _told(error: Exception) -> str:
    """A message of ours as it is; of any other error, where it came from."""
    if isinstance(error, UnderstudyError):
        return str(error)
    return "".join(traceback.format_exception(error))[-_TRACEBACK_CHARS:].strip()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
