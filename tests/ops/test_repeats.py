"""Of a log line that repeats a few a minute are written, and then how many were left out; no other line is touched."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from ops.logs.repeats import RepeatLimit
from tests.ops.children import REPOSITORY


class Clock:
    """Stands still unless told otherwise."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        self.due.append((self.now_s + seconds, function))

    def run(self, seconds: float) -> None:
        self.now_s += seconds
        due, self.due = (
            [one for one in self.due if one[0] <= self.now_s],
            [one for one in self.due if one[0] > self.now_s],
        )
        for _, function in due:
            function()


def record(message: object, *, name: str = "a", level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord(name, level, "file", 1, message, (), None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def limit(clock: Clock, registry: CollectorRegistry) -> RepeatLimit:
    return RepeatLimit(most=3, monotonic=lambda: clock.now_s, later=clock.later, registry=registry)


def passed(limit: RepeatLimit, *messages: object) -> int:
    return sum(limit.filter(record(message)) for message in messages)


def test_of_one_event_three_lines_a_minute_pass_and_all_are_counted(
    limit: RepeatLimit, clock: Clock, registry: CollectorRegistry
) -> None:
    event = {"event": "no heartbeat", "error": "down"}
    assert passed(limit, *[event] * 100) == 3
    clock.run(60.0)
    assert passed(limit, *[event] * 100) == 3
    assert registry.get_sample_value("understudy_log_lines_total", {"level": "warning"}) == 200
    assert registry.get_sample_value("understudy_log_lines_left_out_total", {"level": "warning"}) == 194


def test_different_events_are_never_left_out(limit: RepeatLimit) -> None:
    assert (
        passed(limit, *[{"event": "a"}] * 100, {"event": "b"}, {"event": "a", "lane": "x"}, {"event": "a", "lane": "y"})
        == 6
    )
    assert limit.filter(record({"event": "a"}, level=logging.ERROR))
    assert limit.filter(record({"event": "a"}, name="another.logger"))
    assert limit.filter(record({"event": "a", "exception": "Traceback\nValueError: 1"}))
    assert limit.filter(record({"event": "a", "error": "another reason"}))


def test_lines_of_libraries_that_differ_in_numbers_alone_are_the_same(limit: RepeatLimit) -> None:
    lines = [f"accept failed\nsocket: <socket fd={n} at 0x7f{n:04x}>" for n in range(50)]
    assert passed(limit, *lines, *(f"connection {n} failed" for n in range(50)), "something else") == 3
    told = [limit.filter(record(f"session {n} began", name="uvicorn", level=logging.INFO)) for n in range(50)]
    assert sum(told) == 3, "what is no warning is left out later"


REFUSED = "Group Coordinator Request failed: %s"


def refused(error: str) -> logging.LogRecord:
    return logging.LogRecord("kafka.coordinator", logging.ERROR, "file", 1, REFUSED, (error,), None)


def test_a_storm_of_a_librarys_warnings_is_its_first_line_and_then_a_count_a_minute_until_it_ends(
    limit: RepeatLimit, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, int]] = []
    monkeypatch.setattr("ops.logs.repeats._say", lambda window, of: said.append((of, window.left_out)))
    lines = 0
    for _ in range(3 * 60):
        lines += sum(limit.filter(refused("GroupAuthorizationFailedError 30")) for _ in range(10))
        clock.run(1.0)
    assert lines == 1
    assert [of for of, _ in said] == ["Group Coordinator Request failed: GroupAuthorizationFailedError #"] * 3
    assert sum(count for _, count in said) + lines == 1800
    assert limit.filter(refused("NotCoordinatorError 16")), "another error of the same words is another line"
    assert passed(limit, *[{"event": "ours", "error": "down"}] * 100) == 3, "ours are as they were"
    clock.run(60.0)
    clock.run(60.0)
    assert limit.filter(refused("GroupAuthorizationFailedError 30")), "it is new after a quiet minute"


def test_of_a_librarys_words_about_ever_other_things_ten_lines_pass(limit: RepeatLimit) -> None:
    assert sum(limit.filter(refused("x" * n)) for n in range(50)) == 10


def test_a_librarys_line_whose_arguments_do_not_fit_is_counted_by_its_words(limit: RepeatLimit) -> None:
    odd = logging.LogRecord("kafka", logging.WARNING, "file", 1, "%s and %s", ("one",), None)
    assert [limit.filter(odd) for _ in range(3)] == [True, False, False]


def test_an_event_about_ever_other_things_has_a_bound_too(limit: RepeatLimit) -> None:
    assert passed(limit, *({"event": "a", "error": f"about {'x' * n}"} for n in range(70))) == 30


def test_what_was_left_out_is_said_when_its_minute_is_over(
    limit: RepeatLimit, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, int]] = []
    monkeypatch.setattr("ops.logs.repeats._say", lambda window, of: said.append((of, window.left_out)))
    passed(limit, *[{"event": "a"}] * 10, {"event": "b"})
    assert said == []
    clock.run(30.0)
    passed(limit, *[{"event": "c"}] * 5)
    clock.run(30.0)
    assert said == [("a", 7)]
    clock.run(60.0)
    assert said == [("a", 7), ("c", 2)]
    assert clock.due == []


def test_the_table_of_events_is_bounded(limit: RepeatLimit) -> None:
    passed(limit, *({"event": "e" * n} for n in range(200)), *({"event": "a", "lane": "l" * n} for n in range(80)))
    passed(limit, *(f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(3000)))
    assert len(limit._windows) <= 1024


PROGRAM = """
import logging, structlog
from ops.logs import lines as logs
from ops.logs import repeats
repeats._WINDOW_S = 1.0
logs.configure("serve")
log = structlog.get_logger("a.room")
for _ in range(1000):
    log.warning("again", number=_)
    logging.getLogger("asyncio").error("socket.accept() out of system resource\\nsocket: %d" % _)
import time
deadline = time.monotonic() + 20
while repeats.threading.active_count() > 1 and time.monotonic() < deadline:
    time.sleep(0.05)
"""


def test_the_limit_holds_for_our_lines_and_for_those_of_libraries() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in found.stderr.splitlines()]
    for logger, event in (("a.room", "again"), ("asyncio", "socket.accept() out of system resource")):
        of_it = [line for line in lines if line["logger"] == logger]
        said = [line for line in of_it if line["event"].startswith(event)]
        left_out = sum(line["lines"] for line in of_it if line["event"] == "log_lines_left_out" and line["of"] == event)
        assert len(said) < 200
        assert len(said) + left_out == 1000
