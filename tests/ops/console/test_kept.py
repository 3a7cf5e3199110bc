"""Kept reads: one thread finds a value for all who ask, few work at once, and nobody waits for ever."""

import threading
from contextlib import closing
from itertools import count

import pytest

from ops.console.kept import AT_ONCE, Kept, StillReadingError

WAIT_S = 60.0


def test_a_value_is_found_once_for_all_who_ask_and_anew_when_its_time_is_over() -> None:
    clock, numbers = [0.0], count()
    with closing(Kept(monotonic=lambda: clock[0])) as kept:

        def ask() -> int:
            return kept.get("a", lambda: next(numbers), keep_s=2.0, wait_s=WAIT_S)

        assert [ask(), ask()] == [0, 0]
        clock[0] = 1.9
        assert ask() == 0
        clock[0] = 2.0
        assert ask() == 1
        kept.forget()
        assert ask() == 2
        assert kept.get("b", lambda: "another", keep_s=2.0, wait_s=WAIT_S) == "another"


def test_what_takes_too_long_goes_on_and_is_there_the_next_time() -> None:
    go, started = threading.Event(), count()

    def slow() -> int:
        assert go.wait(WAIT_S)
        return next(started)

    with closing(Kept()) as kept:
        for _ in range(3):
            with pytest.raises(StillReadingError):
                kept.get("a", slow, keep_s=WAIT_S, wait_s=0.01)
        go.set()
        assert kept.get("a", slow, keep_s=WAIT_S, wait_s=WAIT_S) == 0


def test_what_a_read_raises_is_raised_here_even_a_time_out_of_its_own() -> None:
    def late() -> int:
        message = "Redis"
        raise TimeoutError(message)

    with closing(Kept()) as kept, pytest.raises(TimeoutError, match="Redis"):
        kept.get("a", late, keep_s=1.0, wait_s=WAIT_S)


def test_no_more_work_at_once_than_there_are_threads_for() -> None:
    go, at_work, most = threading.Event(), [0], [0]
    lock = threading.Lock()
    full = threading.Semaphore(0)

    def work() -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        full.release()
        assert go.wait(WAIT_S)
        with lock:
            at_work[0] -= 1

    with closing(Kept()) as kept:
        for name in range(4 * AT_ONCE):
            with pytest.raises(StillReadingError):
                kept.get(name, work, keep_s=WAIT_S, wait_s=0.0)
        for _ in range(AT_ONCE):
            assert full.acquire(timeout=WAIT_S)
        go.set()
        for name in range(4 * AT_ONCE):
            kept.get(name, work, keep_s=WAIT_S, wait_s=WAIT_S)
    assert most == [AT_ONCE]
