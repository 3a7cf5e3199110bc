"""The live view: a screen in a terminal, plain lines elsewhere."""

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ops.demo.page.live_view import DemoBoard, live_view, render, sparkline
from ops.demo.page.picture import Picture, headline
from tests.ops.one_run import picture


def board(shown: Picture, **changes: str | None) -> DemoBoard:
    found: dict[str, str | None] = {"phase": "sending", "promise_state": "held", "failure": None}
    return DemoBoard(lane="demo/support", elapsed_s=12.0, picture=shown, **(found | changes))  # type: ignore[arg-type]


def screen(shown: DemoBoard, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(render([shown], width))
    return captured.get()


def plain(*boards: DemoBoard) -> list[str]:
    file = io.StringIO()
    with live_view(Console(file=file, width=200, force_terminal=False)) as show:
        for one in boards:
            show(one)
    return file.getvalue().splitlines()


def test_the_screen_shows_all_that_is_promised() -> None:
    text = screen(board(picture()))
    for word in ("student agreement", "answered agreement", "system agreement", "escalated", "audits say"):
        assert word in text
    for word in ("recorded truth", "fail (planted)", "rollback", "1,200/1,200 requests", "failed", "held", "nobody"):
        assert word in text


def test_a_failure_is_shown_with_its_words() -> None:
    assert "HTTP 503" in screen(board(picture(), failure="HTTP 503: overloaded"))


@pytest.mark.parametrize("width", [64, 80, 140])
def test_on_a_narrow_terminal_nothing_is_cut_and_the_newest_values_are_drawn(width: int) -> None:
    shown = board(picture(), failure="HTTP 503: the student is overloaded and says so in a sentence that is long")
    text = screen(shown, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    student = [one.student_agreement.value for one in picture().curve if one.student_agreement is not None]
    assert f"{sparkline(student, low=0.5)[-6:]}  94.0% [90.3%, 96.3%] of 250" in text
    assert "1,081" in text


def test_a_board_before_the_first_request_can_be_shown() -> None:
    empty = replace(
        picture(), curve=(), marks=(), answered=None, audits=None, requests=dict.fromkeys(picture().requests, 0)
    )
    assert "no student yet" in screen(board(empty, promise_state=None))
    assert plain(board(empty)) == ["   12 s  demo/support  sending"]


def test_plain_lines_tell_each_thing_once() -> None:
    told = plain(board(picture()), board(picture()), board(picture(), phase="settling"))
    assert len(told) == len(set(told))
    assert len([line for line in told if "fail (planted)" in line]) == 1
    assert told[-1].endswith("settling")


def test_a_mark_that_moves_by_a_few_requests_is_not_told_again() -> None:
    moved = tuple(replace(mark, at=mark.at + 3) for mark in picture().marks)
    assert plain(board(picture()), board(replace(picture(), marks=moved))) == plain(board(picture()))


@given(values=st.lists(st.none() | st.floats(0, 1), max_size=60))
def test_a_sparkline_has_one_block_a_value(values: list[float | None]) -> None:
    line = sparkline(values, low=0.5)
    assert len(line) == min(len(values), 40)
    assert [block == " " for block in line] == [value is None for value in values[-40:]]


def test_a_higher_value_has_a_higher_block() -> None:
    line = sparkline([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], low=0.5)
    assert list(line) == sorted(line)
    assert line[0] != line[-1]


def test_the_headline_says_what_happened() -> None:
    told = headline({"demo/support": picture()})
    assert told.startswith("Escalations fell from 100% to ")
    assert "80% promised" in told


def test_two_lanes_are_shown_one_below_the_other_each_with_its_name_and_told_apart_in_a_log() -> None:
    one, other = board(picture()), replace(board(picture()), lane="demo/shop")
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    with console.capture() as captured:
        console.print(render([one, other], 140))
    text = captured.get()
    assert text.index("demo/support  sending") < text.index("demo/shop  sending")
    told = plain(one, other, one, other)
    assert len(told) == 2 * len(plain(one)) == len(set(told))
