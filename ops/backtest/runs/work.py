"""What a backtest's worker process does: it opens the log once, embeds it, and then takes ask after ask."""

import importlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ops.backtest.log import Log
from ops.backtest.records import Answers, Ask, HardTopic, Run
from store.errors import UnderstudyError

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
class ReplaySource:
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


_opened: list[Replaying] = []  # of this process, one at most


def work_on(work: ReplaySource | Ask, tell: Callable[..., None]) -> Done | Failure | None:
    """Open and embed a log (None: it is done), or replay the one that was opened. What goes wrong is data."""

    def seen(done: int, rows: int) -> None:
        del rows
        tell("rows", done)

    ask = work if isinstance(work, Ask) else None
    try:
        if isinstance(work, ReplaySource):
            opened = work.open()
            _opened[:] = [opened]
            opened.prepare(lambda done, texts: tell("rows", done * opened.log.rows // max(texts, 1)))  # a list has many
            return None
        (replay,) = _opened
        run, answers = replay.run(work, seen)
        return Done(run=run, answers=answers, topics=_topics(replay, answers) if work.seed == 0 else [])
    except UnderstudyError as error:
        return Failure(ask=ask, why=str(error))
    except Exception as error:  # noqa: BLE001 - one run's failure is data; where it came from is told
        return Failure(ask=ask, why="".join(traceback.format_exception(error))[-_TRACEBACK_CHARS:].strip())


def _topics(replay: Replaying, answers: Answers) -> list[HardTopic]:
    from ops.backtest.scores import hard_topics  # noqa: PLC0415 - it needs faiss, which workers alone load

    return hard_topics(replay.log, replay.features, answers)
