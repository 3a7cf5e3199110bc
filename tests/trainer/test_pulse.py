"""Ticks and ages go on whatever the wall clock does."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.daemon.pulse import Age, Every, Pulse, run_ticks

SHIM = Path(__file__).with_name("clock_shift.c")
TICKING = """
import sys, threading
from pathlib import Path
from trainer.daemon.pulse import run_ticks
stop, ticks = threading.Event(), []
def tick():
    ticks.append(1)
    print(len(ticks), flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
run_ticks(tick, tick_s=0.05, stop=stop)
"""


class Clock:
    """A wall clock that a test sets, and one that only goes on."""

    def __init__(self) -> None:
        self.wall_s = 1_800_000_000.0
        self.steady_s = 50.0

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds


def test_a_missed_firing_is_not_made_up_for() -> None:
    every, now = Every(1.0), datetime(2027, 1, 1, tzinfo=UTC)
    assert every.get_next_fire_time(None, now) == now
    for late in (timedelta(0), timedelta(days=3650), timedelta(days=-3650)):
        assert every.get_next_fire_time(now, now + late) == now + late + timedelta(seconds=1)


def test_a_pulse_falls_silent_by_the_steady_clock_alone() -> None:
    clock = Clock()
    pulse = Pulse(lambda: clock.steady_s)
    clock.wall_s -= 1800.0
    assert pulse.silent_s == 0.0
    clock.pass_s(7.0)
    assert pulse.silent_s == 7.0
    pulse.beat()
    assert pulse.silent_s == 0.0


@given(st.lists(st.tuples(st.floats(0.0, 1e5), st.floats(-1e8, 1e8))))
def test_an_age_grows_by_the_time_that_passes_however_the_wall_clock_is_set(steps: list[tuple[float, float]]) -> None:
    clock = Clock()
    age = Age(lambda: clock.steady_s)
    noted_s = clock.wall_s - 100.0
    assert age.since(noted_s, clock.wall_s) == 100.0
    passed_s = 0.0
    for seconds, set_by_s in steps:
        clock.pass_s(seconds)
        clock.wall_s += set_by_s
        passed_s += seconds
        assert age.since(noted_s, clock.wall_s) == pytest.approx(100.0 + passed_s)


def test_a_moment_that_lies_ahead_is_as_old_as_the_knowledge_of_it() -> None:
    clock = Clock()
    age = Age(lambda: clock.steady_s)
    assert age.since(clock.wall_s + 1800.0, clock.wall_s) == 0.0
    noted_s = clock.wall_s + 1800.0
    clock.pass_s(60.0)
    assert age.since(noted_s, clock.wall_s) == 60.0
    assert age.since(clock.wall_s - 5.0, clock.wall_s) == 5.0, "another moment is known anew"


def test_ticks_come_one_at_a_time_and_stop_when_they_are_asked_to() -> None:
    stop, seen = threading.Event(), threading.Event()
    inside: list[int] = []

    def tick() -> None:
        assert not inside
        inside.append(1)
        if seen.is_set():
            stop.set()
        seen.set()
        inside.pop()

    runner = threading.Thread(target=run_ticks, args=(tick,), kwargs={"tick_s": 0.01, "stop": stop})
    runner.start()
    runner.join(60)
    assert not runner.is_alive()
    assert seen.is_set()


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim that sets a process's wall clock."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        if "CI" in os.environ:  # noqa: TID251 - as everywhere: missing is a skip at a desk, a failure in CI
            pytest.fail("no C compiler")
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("shim") / "clock_shift.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl"], check=True)
    return library


@pytest.fixture
def ticking(shim: Path, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A real scheduler in a process of its own, and the file that its wall clock is shifted by."""
    shift = tmp_path / "shift"
    shift.write_text("0")
    process = subprocess.Popen(
        [sys.executable, "-c", TICKING],
        env={**os.environ, "LD_PRELOAD": str(shim), "CLOCK_SHIFT": str(shift)},  # noqa: TID251 - for the child
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process, shift
    process.communicate("", timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("shift_s", [-300, -1800, -86_400 * 3650, 1800, 86_400 * 3650])
def test_a_real_scheduler_ticks_on_when_the_wall_clock_is_set(
    ticking: tuple["subprocess.Popen[str]", Path], shift_s: int
) -> None:
    process, shift = ticking
    guard = threading.Timer(60.0, process.kill)  # without a tick a read would wait for half an hour
    guard.start()
    ticks = numbers(process, 1)
    shift.write_text(str(shift_s))
    ticks += numbers(process, 20)
    shift.write_text("0")
    ticks += numbers(process, 20)
    guard.cancel()
    assert ticks == list(range(1, 42))


def numbers(process: "subprocess.Popen[str]", count: int) -> list[int]:
    """The next ticks that the process counts; what it logs besides is passed over."""
    assert process.stdout is not None
    lines = (line.strip() for line in process.stdout)
    return [int(line) for line in islice((line for line in lines if line.isdecimal()), count)]
