"""The demo in the terminal: a live screen where it is one, plain lines where it is not."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ops.demo.measures.measure import Estimate, Window
from ops.demo.page.picture import Mark, Picture

DemoShow = Callable[["DemoBoard"], None]

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = {
    "pass": "green",
    "fail": "red",
    "inconclusive": "yellow",
    "held": "cyan",
    "swap": "blue",
    "rollback": "magenta",
    "topic": "white",
}
_SPARK: Final = 40  # values of a curve at most
_BESIDE: Final = 58  # cells that a curve's name, its latest value and the frame take
_LOW: Final = 0.5  # agreements are drawn from here to 1
_SHOWN_MARKS: Final = 9
_PLAIN_EVERY: Final = 250  # requests between two plain lines


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoBoard:
    """What is shown at one moment."""

    lane: str
    phase: str  # what the demo is doing, for a person
    elapsed_s: float
    picture: Picture
    promise_state: str | None  # as `understudy status` has it
    failure: str | None  # how the first request that failed did


@contextmanager
def live_view(console: Console) -> Iterator[DemoShow]:
    """A function that shows a lane's board beside the others'; the screen is given back with the context."""
    if not console.is_terminal:
        yield _Plain(console).show
        return
    boards: dict[str, DemoBoard] = {}
    with Live(console=console, refresh_per_second=4, transient=False) as live:

        def show(board: DemoBoard) -> None:
            boards[board.lane] = board
            live.update(render(list(boards.values()), console.width))

        yield show


def render(boards: Sequence[DemoBoard], width: int) -> RenderableType:
    """The whole screen, so many cells wide: one lane below the other."""
    return Group(*(_lane(board, width, named=len(boards) > 1) for board in boards))


def _lane(board: DemoBoard, width: int, *, named: bool) -> RenderableType:
    picture = board.picture
    progress = Table.grid(expand=True, padding=(0, 1))
    progress.add_column(no_wrap=True)
    progress.add_column(ratio=1)
    progress.add_column(justify="right", no_wrap=True)
    sent = picture.requests["sent"]
    progress.add_row(
        Text(f"{board.lane}  {board.phase}" if named else board.phase, "bold"),
        ProgressBar(total=picture.total, completed=sent),
        f"{sent:,}/{picture.total:,} requests · {board.elapsed_s:.0f} s",
    )
    return Group(
        progress,
        Panel(
            _curves(picture, max(1, min(_SPARK, width - _BESIDE))),
            title="rolling, last 250 requests, 95 % intervals",
            title_align="left",
        ),
        Columns([_promise(board), _counts(board)], expand=True),
        Panel(_happened(picture.marks), title="cycles and swaps", title_align="left"),
    )


def sparkline(values: Sequence[float | None], *, low: float, length: int = _SPARK) -> str:
    """The last values between `low` and 1 as blocks; a gap where there is none."""
    return "".join(" " if value is None else _block((value - low) / (1 - low)) for value in values[-length:])


def _block(height: float) -> str:
    return _BLOCKS[max(0, min(len(_BLOCKS) - 1, int(height * len(_BLOCKS))))]


def _curves(picture: Picture, length: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, colour, found in (
        ("student agreement", "cyan", [one.student_agreement for one in picture.curve]),
        ("answered agreement", "green", [one.answered_agreement for one in picture.curve]),
        ("system agreement", "blue", [one.system_agreement for one in picture.curve]),
    ):
        line = sparkline([None if one is None else one.value for one in found], low=_LOW, length=length)
        table.add_row(name, Text(line.rjust(length), colour), shown(found[-1] if found else None))
    ratios = [one.escalated_ratio for one in picture.curve]
    last = f"{ratios[-1]:.1%}" if ratios and ratios[-1] is not None else "-"
    table.add_row("escalated", Text(sparkline(ratios, low=0.0, length=length).rjust(length), "yellow"), last)
    return table


def _promise(board: DemoBoard) -> Panel:
    picture = board.picture
    table = Table.grid(padding=(0, 2))
    table.add_row("promised", f"{picture.target:.0%} of the student's own answers")
    table.add_row("recorded truth", shown(picture.answered))
    table.add_row("audits say", shown(picture.audits))
    table.add_row("state", board.promise_state or "no student yet")
    return Panel(table, title="the promise", title_align="left")


def _counts(board: DemoBoard) -> Panel:
    requests = board.picture.requests
    table = Table.grid(padding=(0, 2))
    table.add_row("student", f"{requests['student']:,}")
    table.add_row("teacher", f"{requests['teacher']:,}")
    table.add_row("withheld", f"{requests['withheld']:,}")
    table.add_row("failed", Text(f"{requests['failed']:,}", "bold red" if requests["failed"] else "green"))
    if board.failure is not None:
        table.add_row("", Text(board.failure, "red"))
    return Panel(table, title="answered by", title_align="left")


def _happened(marks: Sequence[Mark]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()  # the one that wraps
    for mark in marks[-_SHOWN_MARKS:]:
        table.add_row(f"{mark.at:,}", Text(_kind(mark), _COLOURS[mark.kind]), mark.text)
    return table


def shown(found: Estimate | None) -> str:
    """An estimate for a person."""
    return "-" if found is None else f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}] of {found.n}"


def _kind(mark: Mark) -> str:
    return f"{mark.kind} (planted)" if mark.planted else mark.kind


class _Plain:
    """Lines for a log: for each lane one every 250 requests, one for each thing that happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, _Told] = {}

    def show(self, board: DemoBoard) -> None:
        """Print what is new."""
        told = self._told.setdefault(board.lane, _Told())
        for line in told.news(board):
            self._console.print(
                f"{board.elapsed_s:5.0f} s  {board.lane}  {line}", highlight=False, markup=False, soft_wrap=True
            )


class _Told:
    """What was told of one lane."""

    def __init__(self) -> None:
        self._phase = ""
        self._marks: Counter[tuple[str, str]] = Counter()  # a mark's place may still move by a few requests
        self._next = _PLAIN_EVERY
        self._failed = False

    def news(self, board: DemoBoard) -> Iterator[str]:
        """What is new, a line each."""
        if board.phase != self._phase:
            self._phase = board.phase
            yield board.phase
        if board.failure is not None and not self._failed:
            self._failed = True
            yield f"a request failed: {board.failure}"
        seen: Counter[tuple[str, str]] = Counter()
        for mark in board.picture.marks:
            name = (_kind(mark), mark.text)
            seen[name] += 1
            if seen[name] > self._marks[name]:
                self._marks[name] += 1
                yield f"{_kind(mark)} after {mark.at} requests: {mark.text}"
        sent = board.picture.requests["sent"]
        if sent >= self._next and board.picture.curve:
            self._next = (sent // _PLAIN_EVERY + 1) * _PLAIN_EVERY
            yield _window_line(sent, board.picture, board.picture.curve[-1])


def _window_line(sent: int, picture: Picture, last: Window) -> str:
    escalated = "-" if last.escalated_ratio is None else f"{last.escalated_ratio:.0%}"
    return (
        f"{sent} requests: escalated {escalated}, student {shown(last.student_agreement)}, answered"
        f" {shown(last.answered_agreement)}, audits {shown(picture.audits)}, failed {picture.requests['failed']}"
    )
