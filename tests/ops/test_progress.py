"""How far work has come, with a rate and the time left."""

import io

from rich.console import Console

from ops.show.progress import Board, clock, row_progress


def shown(*boards: tuple[float, Board], terminal: bool = False) -> str:
    out, now = io.StringIO(), [0.0]
    with row_progress(Console(file=out, force_terminal=terminal, width=120), lambda: now[0]) as show:
        for at_s, board in boards:
            now[0] = at_s
            show(board)
    return out.getvalue()


def board(rows: int, phase: str = "replaying", note: str = "") -> Board:
    return Board(phase=phase, rows=rows, total=1000, note=note)


def test_rate_and_time_left_are_of_the_phase_from_its_first_rows() -> None:
    told = shown((0, board(400, "embedding")), (50, board(0)), (100, board(100)), (120, board(300, note="1 of 2 runs")))
    assert told.splitlines()[-1] == "replaying: 300/1,000 rows · 10 rows/s · 1:10 left · 1 of 2 runs"


def test_plain_lines_come_every_ten_seconds_and_at_a_new_phase() -> None:
    told = shown((0, board(0, "embedding")), (1, board(0)), (5, board(50)), (10.9, board(100)), (11, board(110)))
    assert [line.partition(" rows")[0] for line in told.splitlines()] == [
        "embedding: 0/1,000",
        "replaying: 0/1,000",
        "replaying: 110/1,000",
    ]


def test_the_end_is_told_once() -> None:
    told = shown((0, board(0)), (1, board(900)), (2, board(1000)), (3, board(1000)), (30, board(1000)))
    assert [line.partition(" rows")[0] for line in told.splitlines()] == [
        "replaying: 0/1,000",
        "replaying: 1,000/1,000",
    ]


def test_a_terminal_shows_a_bar() -> None:
    told = shown((0, board(0)), (1, board(100)), (11, board(600)), terminal=True)
    assert "━" in told
    assert "600/1,000 rows · 50 rows/s · 0:08 left" in told


def test_times_for_people() -> None:
    assert [clock(seconds) for seconds in (0, 42.4, 725, 3753)] == ["0:00", "0:42", "12:05", "1:02:33"]
