"""The supervisor restarts what crashed, stops in order, and leaves no process, whatever kills it."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.processes.supervisor import ChildSpec, GiveUp, Restart, RestartPolicy, Supervisor, after_crash
from tests.ops.children import (
    CRASHES,
    HAS_A_CHILD,
    HEARS,
    OBEYS,
    REPOSITORY,
    STUBBORN,
    WATCHES,
    command,
    gone,
    lines,
    pids,
    start_supervisor,
    until,
)

QUICK = RestartPolicy(first_delay_s=0.01, longest_delay_s=0.05, crashes=4, window_s=60.0)


@contextmanager
def running(supervisor: Supervisor) -> Iterator[tuple[threading.Event, list[int]]]:
    stop, codes = threading.Event(), list[int]()
    thread = threading.Thread(target=lambda: codes.append(supervisor.run(stop)))
    thread.start()
    try:
        yield stop, codes
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def spec(program: str, log: Path, name: str, *more: str, grace_s: float = 10.0) -> ChildSpec:
    return ChildSpec(name=name, command=command(program, log, name, *more), grace_s=grace_s)


def test_a_killed_child_is_started_again_and_the_others_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = [spec(OBEYS, log, "one"), spec(OBEYS, log, "two")]
    with running(Supervisor(children, QUICK)):
        until(lambda: len(lines(log)) == 2)
        os.kill(pids(log, "one")[0], signal.SIGKILL)
        until(lambda: len(pids(log, "one")) == 2)
        assert len(pids(log, "two")) == 1
        assert not gone(pids(log, "two")[0])


def test_children_stop_in_the_opposite_order_of_their_start_and_none_is_left(tmp_path: Path) -> None:
    log = tmp_path / "log"
    names = ["ingest", "train", "serve"]
    with running(Supervisor([spec(OBEYS, log, name) for name in names], QUICK)) as (stop, codes):
        until(lambda: len(lines(log)) == 3)
        stop.set()
        until(lambda: bool(codes))
    assert codes == [0]
    assert lines(log)[3:] == ["serve ends", "train ends", "ingest ends"]
    assert all(gone(pids(log, name)[0]) for name in names)


def test_a_child_that_does_not_stop_within_its_grace_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(Supervisor([spec(STUBBORN, log, "one", grace_s=0.2)], QUICK)) as (stop, codes):
        until(lambda: len(lines(log)) == 1)
        stop.set()
        until(lambda: bool(codes))
    assert gone(pids(log, "one")[0])


def test_a_child_that_keeps_crashing_is_given_up_and_the_others_are_stopped(tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = [spec(OBEYS, log, "good"), spec(CRASHES, log, "bad", "3")]
    with running(Supervisor(children, QUICK)) as (_stop, codes):
        until(lambda: bool(codes))
    assert codes == [1]
    assert len(pids(log, "bad")) == QUICK.crashes
    assert all(gone(pid) for pid in pids(log, "good"))


def test_a_child_without_which_service_goes_on_is_never_given_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    bad = replace(spec(CRASHES, log, "bad", "3"), essential=False)
    with running(Supervisor([spec(OBEYS, log, "good"), bad], QUICK)) as (_stop, codes):
        until(lambda: len(pids(log, "bad")) > 2 * QUICK.crashes)
        assert codes == []
        assert len(pids(log, "good")) == 1


def test_wrong_settings_are_not_tried_twice(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(Supervisor([spec(CRASHES, log, "bad", "2")], QUICK)) as (_stop, codes):
        until(lambda: bool(codes))
    assert codes == [1]
    assert len(pids(log, "bad")) == 1


def test_a_child_that_has_run_before_waits_for_its_settings_to_be_mended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    policy = replace(QUICK, has_run_s=0.0)  # it has, whenever it has been started
    with running(Supervisor([spec(OBEYS, log, "good"), spec(CRASHES, log, "bad", "2")], policy)) as (_stop, codes):
        until(lambda: len(pids(log, "bad")) > 2 * QUICK.crashes)
        assert codes == []
        assert len(pids(log, "good")) == 1


@pytest.mark.parametrize("essential", [True, False])
def test_wrong_settings_are_given_up_for_a_child_that_has_never_run_alone(*, essential: bool) -> None:
    policy, crashes_s = RestartPolicy(), [float(n) for n in range(20)]
    assert after_crash(crashes_s, 2, policy, essential=essential, has_run=True) == Restart(policy.longest_delay_s)
    assert isinstance(after_crash([0.0], 2, policy, essential=essential, has_run=False), GiveUp)


def test_what_a_crashed_child_left_behind_is_ended_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(Supervisor([spec(HAS_A_CHILD, log, "one")], QUICK)):
        until(lambda: len(lines(log)) == 2)
        grandchild = int(lines(log)[1].split()[2])
        assert not gone(grandchild)
        os.kill(pids(log, "one")[0], signal.SIGKILL)
        until(lambda: gone(grandchild))


@pytest.mark.parametrize("asked", ["beside", "excuse"])
def test_nobody_is_given_up_for_crashes_while_redis_is_down_or_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr("ops.processes.supervisor._EXCUSED_S", 0.01)
    log = tmp_path / "log"
    reasons: list[str | None] = ["redis is down"]
    beside, excuse = ((lambda: reasons[0]) if asked == name else (lambda: None) for name in ("beside", "excuse"))
    supervisor = Supervisor([spec(CRASHES, log, "bad", "3")], QUICK, beside=beside, excuse=excuse)
    with running(supervisor) as (_stop, codes):
        until(lambda: len(pids(log, "bad")) > 2 * QUICK.crashes)
        assert codes == []
        excused = len(pids(log, "bad"))
        reasons[0] = None  # what happened before is not held against it now
        until(lambda: bool(codes))
    assert codes == [1]
    assert len(pids(log, "bad")) >= excused + QUICK.crashes - 1


def test_wrong_settings_end_everything_also_while_redis_is_down(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervisor = Supervisor([spec(CRASHES, log, "bad", "2")], QUICK, beside=lambda: "redis is down")
    with running(supervisor) as (_stop, codes):
        until(lambda: bool(codes))
    assert codes == [1]


def test_a_child_that_cannot_be_started_now_is_started_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, popen, refusals = tmp_path / "log", subprocess.Popen, [2]

    def refuses_twice(*arguments: Any, **more: Any) -> Any:
        if refusals[0]:
            refusals[0] -= 1
            raise BlockingIOError(11, "no process is left")
        return popen(*arguments, **more)

    monkeypatch.setattr(subprocess, "Popen", refuses_twice)
    with running(Supervisor([spec(OBEYS, log, "one")], QUICK)) as (_stop, codes):
        until(lambda: len(lines(log)) == 1)
        assert codes == []


def test_a_hangup_is_passed_on_and_ends_no_child_however_young_it_is(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervisor = Supervisor([spec(HEARS, log, "one"), spec(OBEYS, log, "two")], QUICK)
    with running(supervisor) as (_stop, _codes):
        supervisor.hangup.set()  # `one` may not have its handler yet; it is held back until it has
        until(lambda: "one hears" in lines(log))
        until(lambda: len(pids(log, "two")) == 1)
        assert not gone(pids(log, "one")[0])
        assert not gone(pids(log, "two")[0])


SUPERVISES = f"""
import sys
from pathlib import Path
from ops.processes.signals import listen
from ops.processes.supervisor import ChildSpec, RestartPolicy, Supervisor
log = Path(sys.argv[1])
watches = {WATCHES!r}
specs = [
    ChildSpec(name=n, command=(sys.executable, "-c", watches, str(log), n, "{{lifeline}}"), grace_s=10.0)
    for n in ("one", "two")
]
with listen() as signals:
    sys.exit(Supervisor(specs, RestartPolicy(), directory=Path({str(REPOSITORY)!r})).run(signals.stop))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_supervisor_stops_everything_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    with start_supervisor(tmp_path, SUPERVISES) as supervisor:
        until(lambda: len(lines(log)) == 2)
        supervisor.send_signal(number)
        _, _ = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 0
    assert lines(log)[2:] == ["two ends", "one ends"]
    assert all(gone(pids(log, name)[0]) for name in ("one", "two"))


def test_children_end_by_themselves_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with start_supervisor(tmp_path, SUPERVISES) as supervisor:
        until(lambda: len(lines(log)) == 2)
        supervisor.kill()
        _, _ = supervisor.communicate(timeout=30)
    until(lambda: len(lines(log)) == 4)
    assert sorted(lines(log)[2:]) == ["one ends", "two ends"]
    until(lambda: all(gone(pids(log, name)[0]) for name in ("one", "two")))


@given(
    gaps_s=st.lists(st.floats(0.0, 200.0), min_size=1, max_size=20),
    code=st.integers(-31, 255).filter(lambda value: value != 2),
)
def test_delays_grow_with_recent_crashes_and_stay_bounded(gaps_s: list[float], code: int) -> None:
    policy = RestartPolicy()
    crashes_s = [sum(gaps_s[: index + 1]) for index in range(len(gaps_s))]
    recent = [at_s for at_s in crashes_s if at_s > crashes_s[-1] - policy.window_s]
    assert isinstance(after_crash(crashes_s, code, policy, essential=False), Restart)
    match after_crash(crashes_s, code, policy):
        case Restart(delay_s=delay_s):
            assert len(recent) < policy.crashes
            assert policy.first_delay_s <= delay_s <= policy.longest_delay_s
            assert delay_s >= min(policy.longest_delay_s, policy.first_delay_s * len(recent))
        case GiveUp():
            assert len(recent) >= policy.crashes
