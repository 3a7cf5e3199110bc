"""How far long work has come: a bar where the terminal has one, a plain line now and then where it has none."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PLAIN_EVERY_S: Final = 10.0
_BLINK_S: Final = 1e-3
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What is known at one moment."""

    phase: str  # for a person
    rows: int  # done in it
    total: int
    note: str = ""  # what else is known, for a person


Show = Callable[[Board], None]


@contextmanager
def row_progress(console: Console, now_s: Callable[[], float] = time.monotonic) -> Iterator[Show]:
    """A function that shows a board; rate and time left are of its phase, from the first rows that were done in it."""
    pace = _Pace(now_s)
    if not console.is_terminal:
        yield _Plain(console, pace, now_s).show
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task("", total=None, told="")

        def show(board: Board) -> None:
            told = pace.told(board)
            progress.update(task, description=board.phase, completed=board.rows, total=board.total, told=told)

        yield show


def clock(seconds: float) -> str:
    """A time for a person: 0:42, 12:05, 1:02:33."""
    whole = round(seconds)
    minutes, rest = divmod(whole % _HOUR_S, _MINUTE_S)
    hours = whole // _HOUR_S
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Pace:
    """The rate of the present phase."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._phase: str | None = None
        self._first: tuple[float, int] | None = None  # when rows were first done, and how many

    def told(self, board: Board) -> str:
        """Rows, rate and time left."""
        if board.phase != self._phase:
            self._phase, self._first = board.phase, None
        if self._first is None and board.rows > 0:
            self._first = (self._now_s(), board.rows)
        told = f"{board.rows:,}/{board.total:,} rows"
        if self._first is not None and board.rows > self._first[1]:
            rate = (board.rows - self._first[1]) / max(self._now_s() - self._first[0], _BLINK_S)
            told += f" · {rate:,.0f} rows/s · {clock((board.total - board.rows) / rate)} left"
        return f"{told} · {board.note}" if board.note else told


class _Plain:
    """A line at every new phase, every ten seconds, and when all is done."""

    def __init__(self, console: Console, pace: _Pace, now_s: Callable[[], float]) -> None:
        self._console, self._pace, self._now_s = console, pace, now_s
        self._shown: Board | None = None
        self._next_s = 0.0

    def show(self, board: Board) -> None:
        """Print it, if it is time."""
        told = self._pace.told(board)
        last = self._shown
        if board == last and board.rows == board.total:
            return
        if last is not None and board.phase == last.phase and board.rows < board.total and self._now_s() < self._next_s:
            return
        self._shown, self._next_s = board, self._now_s() + _PLAIN_EVERY_S
        self._console.print(f"{board.phase}: {told}", markup=False, highlight=False, soft_wrap=True)
