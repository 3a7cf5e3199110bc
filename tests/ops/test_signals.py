"""No signal ends a process of ours without its grace, and a terminal that is gone stops what it had started."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ops.processes.signals import Signals, listen
from tests.ops.children import HEARS, REPOSITORY, command, lines, until


@contextmanager
def hearing(log: Path, **how: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command(HEARS, log, "one"), cwd=REPOSITORY, stderr=subprocess.PIPE, **how) as process:  # type: ignore[call-overload]
        try:
            until(lambda: len(lines(log)) == 1, seconds=60)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_what_asks_for_the_stop_ends_it_in_order_however_often_it_comes(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    with hearing(log) as process:
        with suppress(ProcessLookupError):
            for _ in range(3):
                process.send_signal(number)
        until(lambda: "one ends" in lines(log))


def test_what_asks_for_nothing_changes_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with hearing(log) as process:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGHUP):
            process.send_signal(number)
        until(lambda: "one hears" in lines(log))
        assert process.poll() is None
        process.terminate()
        until(lambda: "one ends" in lines(log))


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_gone_stops_what_it_had_started_unless_under_nohup(tmp_path: Path, *, nohup: bool) -> None:
    log = tmp_path / "log"
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(
            signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL
        )  # whatever these tests were started with
        os.chdir(REPOSITORY)
        os.execv(sys.executable, command(HEARS, log, "one"))  # noqa: S606 - it is a terminal's
    try:
        until(lambda: len(lines(log)) == 1, seconds=60)
        os.kill(pid, signal.SIGHUP)  # the terminal is there: a reload
        until(lambda: "one hears" in lines(log))
        os.close(terminal)
        if nohup:
            until(lambda: lines(log).count("one hears") == 2)
            os.kill(pid, signal.SIGTERM)
        until(lambda: "one ends" in lines(log))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_hangup_that_came_before_there_was_anything_to_reload_is_not_forgotten() -> None:
    signals, reloads = Signals(in_terminal=False), list[str]()
    signals.heard(signal.SIGHUP)
    signals.on_hangup(lambda: reloads.append("reload"))
    signals.heard(signal.SIGHUP)
    assert len(reloads) == 2
    assert not signals.stop.is_set()


def test_a_reload_that_fails_stops_nothing() -> None:
    def fails() -> None:
        message = "no"
        raise RuntimeError(message)

    signals = Signals(in_terminal=False)
    signals.on_hangup(fails)
    signals.heard(signal.SIGHUP)
    assert not signals.stop.is_set()


def test_of_many_signals_at_once_none_is_lost_while_the_main_thread_sleeps(tmp_path: Path) -> None:
    """A handler that set the event itself could meet the very lock that its thread holds."""
    log = tmp_path / "log"
    for _ in range(5):
        log.unlink(missing_ok=True)
        with hearing(log) as process:
            for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM):
                process.send_signal(number)
            until(lambda: "one ends" in lines(log))


def test_hundreds_of_signals_on_a_thread_that_waits_block_nothing() -> None:
    with listen() as signals:
        for _ in range(300):
            os.kill(os.getpid(), signal.SIGUSR1)
            signals.stop.wait(0.0001)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop.wait(10)
