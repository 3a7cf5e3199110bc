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

from ops.backtest.records import Answers, Ask, HardTopic, Run
from ops.show.progress import Board, Show
from store.errors import UnderstudyError

_POLL_S: Final = 0.2
_END_S: Final = 2.0
_TELL_EVERY_S: Final = 0.2
_TRACEBACK_CHARS: Final = 2000

Seen = Callable[[int, int], None]  # rows done, rows


class Replaying(Protocol):
    """A log that can be replayed; `ops.backtest.replay.Replay` is the real one."""

    def prepare(self, progress: Seen) -> None:
        """Embed what is not embedded yet."""

    def run(self, ask: Ask, progress: Seen) -> tuple[Run, Answers]:
        """Replay the log once."""

    def hard_topics(self, answers: Answers) -> list[HardTopic]:
        """The topics that stayed hard in a run."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    pass


@dataclass(slots=True, kw_only=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    ask: Ask | None = None
    rows: int = 0  # of the ask, or of the embedding


@dataclass(slots=True, kw_only=True)
class _State:
    """What the parent knows."""

    waiting: deque[Ask]
    workers: list[_Worker] = field(default_factory=list)
    finished: set[Ask] = field(default_factory=set)
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
        """Do all asks; Ctrl-C ends it early. Call it from the main thread.

        Args:
            asks: in the order in which they are begun.
            keep: takes each run when it ends.
            show: takes the progress, a few times a second.
        """
        state = _State(waiting=deque(asks))
        with _interrupts() as stop:
            try:
                for _ in range(min(self._jobs, len(asks))):
                    state.workers.append(self._start())
                state.workers[0].connection.send(None)
                while state.workers and not stop.is_set():
                    self._listen(state, keep)
                    show(self._board(state, len(asks)))
            finally:
                _end(state.workers)
        missing = [ask for ask in asks if ask not in state.finished]
        return Outcome(failed=state.failed, missing=missing, interrupted=stop.is_set())

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._source), name="backtest", daemon=True)
        with _deaf():
            process.start()
        theirs.close()
        return _Worker(process=process, connection=ours)

    def _listen(self, state: _State, keep: Callable[[Done], None]) -> None:
        """Take what the workers have to say within a moment."""
        by_connection = {worker.connection: worker for worker in state.workers}
        for heard in pipes.wait(list(by_connection), timeout=_POLL_S):
            worker = next(one for one in state.workers if one.connection is heard)
            try:
                said = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(state, worker)
                continue
            match said:
                case _Rows(done=rows):
                    worker.rows = rows
                case Failure(ask=None):
                    state.failed.append(said)
                    _dismiss(state, worker)
                    if not state.embedded:
                        _dismiss(state, *state.workers)
                case _Ready() if not state.embedded:
                    state.embedded = True
                    _give(state, worker)
                    for other in state.workers:
                        if other is not worker:
                            other.connection.send(None)
                case _:
                    if isinstance(said, Done):
                        state.finished.add(said.run.ask)
                        keep(said)
                    elif isinstance(said, Failure):
                        state.failed.append(said)
                    _give(state, worker)

    def _bury(self, state: _State, worker: _Worker) -> None:
        """A worker has died: say so, and put another in its place if it was at work on an ask."""
        worker.process.join(_END_S)
        why = f"its process died (exit code {worker.process.exitcode})"
        state.failed.append(Failure(ask=worker.ask, why=why))
        _dismiss(state, worker)
        if not state.embedded:
            _dismiss(state, *state.workers)
        elif worker.ask is not None and state.waiting:
            fresh = self._start()
            fresh.connection.send(None)
            state.workers.append(fresh)

    def _board(self, state: _State, asked: int) -> Board:
        if not state.embedded:
            return Board(phase="reading", rows=sum(one.rows for one in state.workers), total=self._rows)
        ended = len(state.finished) + sum(failure.ask is not None for failure in state.failed)
        under_way = sum(one.rows for one in state.workers if one.ask is not None)
        return Board(
            phase=f"replaying, {ended} of {asked} runs done",
            rows=min(ended * self._rows + under_way, asked * self._rows),
            total=asked * self._rows,
        )
