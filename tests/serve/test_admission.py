"""Who is let in: whole requests, by how long the others would keep them waiting."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.request.admission import Admission, OverloadedError, StudentLine, TeacherTurns
from serve.student.line import Ticket


@dataclass
class FakePace:
    """A student of known pace."""

    token_s: float = 0.01
    turn: int = 4
    batch_tokens: int = 16


@dataclass
class Door:
    """The gateway's door before one student."""

    line: StudentLine
    admission: Admission

    @property
    def in_flight(self) -> int:
        return self.admission.in_flight

    def admit(
        self, texts: int, turns: TeacherTurns, *, student: bool, teacher: bool
    ) -> AbstractContextManager[Ticket | None]:
        return self.admission.admit(texts, texts, turns, self.line if student else None, teacher=teacher)


def door(token_s: float = 0.01, *, max_in_flight: int = 1_000, wait_s: float = 0.085) -> Door:
    line = StudentLine(pace=FakePace(token_s), wait_s=wait_s)
    return Door(line, Admission(max_in_flight=max_in_flight))


def turns(concurrency: int = 2) -> TeacherTurns:
    return TeacherTurns(concurrency=concurrency, timeout_s=10.0)


def admitted(place: ExitStack, door: Door, texts: list[int]) -> Iterator[bool]:
    for count in texts:
        refused = True
        with suppress(OverloadedError):
            place.enter_context(door.admit(count, turns(), student=True, teacher=False))
            refused = False
        yield not refused


def test_an_idle_student_takes_a_list_of_any_length_and_the_next_list_is_refused_whole() -> None:
    made = door()
    with ExitStack() as place:
        assert list(admitted(place, made, [256, 256])) == [True, False]
        assert made.in_flight == made.line.tokens == 256
    assert made.in_flight == made.line.tokens == 0


def test_a_short_request_is_let_in_beside_a_long_one_because_they_take_turns() -> None:
    with ExitStack() as place:
        assert list(admitted(place, door(), [256, 1, 1, 64, 1])) == [True, True, True, False, True]


@pytest.mark.parametrize(
    ("token_s", "wait_s", "let_in"), [(0.01, 0.085, 9), (0.01, 0.505, 51), (0.2, 0.5, 3), (0.0001, 0.5, 100)]
)
def test_as_many_wait_as_the_student_reads_within_the_limit(token_s: float, wait_s: float, let_in: int) -> None:
    with ExitStack() as place:
        assert sum(admitted(place, door(token_s, wait_s=wait_s), [1] * 100)) == let_in


def test_a_refused_request_is_told_how_long_what_waits_will_take() -> None:
    with ExitStack() as place:
        busy = door(0.5, wait_s=5.0)
        list(admitted(place, busy, [1] * 100))
        with pytest.raises(OverloadedError) as caught:
            place.enter_context(busy.admit(1, turns(), student=True, teacher=False))
        assert caught.value.retry_after_s == 6  # 11 wait, half a second each


def test_texts_that_were_read_make_room() -> None:
    made = door()
    with ExitStack() as place:
        tickets = [place.enter_context(made.admit(1, turns(), student=True, teacher=False)) for _ in range(9)]
        with pytest.raises(OverloadedError) as caught:
            place.enter_context(made.admit(1, turns(), student=True, teacher=False))
        assert (caught.value.reason, caught.value.retry_after_s) == ("student_line", 1)
        assert tickets[0] is not None
        tickets[0].tokens -= 1
        assert list(admitted(place, made, [1])) == [True]


def test_who_wants_the_teacher_does_not_wait_for_the_student() -> None:
    made = door()
    with ExitStack() as place:
        list(admitted(place, made, [1] * 20))
        assert place.enter_context(made.admit(256, turns(), student=True, teacher=True)) is None


def test_who_wants_the_teacher_waits_for_an_opinion_for_a_moment_only() -> None:
    made = door(wait_s=5.0)
    with ExitStack() as place:
        list(admitted(place, made, [1] * 20))
        assert place.enter_context(made.admit(1, turns(), student=True, teacher=True)) is not None
        list(admitted(place, made, [1] * 20))
        assert place.enter_context(made.admit(1, turns(), student=True, teacher=True)) is None
        assert place.enter_context(made.admit(1, turns(), student=True, teacher=False)) is not None


def test_a_slow_teacher_does_not_pile_up_requests() -> None:
    made, slow = door(), turns()
    for _ in range(50):
        slow.took(2.0)
    with ExitStack() as place:
        for _ in range(7):
            place.enter_context(made.admit(1, slow, student=False, teacher=False))
        with pytest.raises(OverloadedError) as caught:
            place.enter_context(made.admit(1, slow, student=False, teacher=False))
        assert (caught.value.reason, caught.value.retry_after_s) == ("teacher_turns", 6)
    assert (slow.promised, made.in_flight) == (0, 0)


def test_the_whole_gateway_has_a_bound() -> None:
    made = door(0.0, max_in_flight=100)
    with ExitStack() as place:
        place.enter_context(made.admit(99, turns(), student=True, teacher=False))
        with pytest.raises(OverloadedError, match="too many requests"):
            place.enter_context(made.admit(2, turns(), student=True, teacher=False))


@given(requests=st.lists(st.integers(1, 256), max_size=60), token_s=st.floats(0.0, 1.0))
def test_whatever_comes_nothing_is_held_once_all_have_left(requests: list[int], token_s: float) -> None:
    made = door(token_s)
    with ExitStack() as place:
        let_in = list(admitted(place, made, requests))
        assert made.in_flight == sum(texts for texts, entered in zip(requests, let_in, strict=True) if entered)
        assert all(let_in[:1])  # an idle gateway refuses nobody
    assert made.in_flight == made.line.tokens == 0
