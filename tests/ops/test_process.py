"""A process is alone under its lock, stops on signals, and ends by force once its grace is over."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ops.processes.process import HARD_EXIT_CODE, exclusive
from ops.processes.signals import listen
from ops.state.run_files import RunFile, read_run_file, run_directory, ticks_of, write_run_file
from store.errors import AlreadyRunningError
from store.event import wall_clock_s
from tests.ops.children import NOTE, REPOSITORY, command, gone, lines, pids, until

DAEMON = NOTE + (
    "from ops.processes.process import daemon\n"
    "grace_s, hangs = float(sys.argv[3]), sys.argv[4] == 'hangs'\n"
    "with daemon(name, log.parent, lifeline=None, grace_s=grace_s, patience_s=0.2, now_s=time.time()) as d:\n"
    "    d.announce(admin_port=1234, port=5678)\n"
    "    with log.open('a') as f: f.write(f'{name} runs {os.getpid()}\\n')\n"
    "    d.stop.wait()\n"
    "    while hangs: time.sleep(60)\n"
)


def start(log: Path, name: str, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(DAEMON, log, name, *more), cwd=REPOSITORY, stderr=subprocess.PIPE)


def test_a_run_file_is_read_back_while_its_process_lives(tmp_path: Path) -> None:
    record = RunFile(name="serve", pid=os.getpid(), started_s=wall_clock_s(), admin_port=1, port=2)
    write_run_file(tmp_path, record)
    assert read_run_file(tmp_path, "serve") == record
    assert list(tmp_path.iterdir()) == [tmp_path / "serve.json"]


def test_the_run_file_of_a_dead_process_is_not_believed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        ended.wait()
    write_run_file(tmp_path, RunFile(name="serve", pid=ended.pid, started_s=wall_clock_s()))
    assert read_run_file(tmp_path, "serve") is None


def test_a_run_file_whose_pid_belongs_to_a_younger_process_is_not_believed(tmp_path: Path) -> None:
    before_s = psutil.Process().create_time() - 100.0
    write_run_file(tmp_path, RunFile(name="serve", pid=os.getpid(), started_s=before_s))
    assert read_run_file(tmp_path, "serve") is None


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's ticks are read from /proc")


@on_linux
@pytest.mark.parametrize("step_s", [-7200.0, 7200.0])
def test_a_wall_clock_that_was_set_does_not_make_a_running_process_dead(tmp_path: Path, step_s: float) -> None:
    ticks = ticks_of(os.getpid())
    assert ticks is not None
    started_s = psutil.Process().create_time() + step_s
    write_run_file(tmp_path, RunFile(name="serve", pid=os.getpid(), started_s=started_s, started_ticks=ticks))
    assert read_run_file(tmp_path, "serve") is not None


@on_linux
def test_a_pid_that_another_process_has_now_is_not_believed_whatever_the_wall_clock_says(tmp_path: Path) -> None:
    ticks = (ticks_of(os.getpid()) or 0) - 1
    started_s = wall_clock_s() + 7200.0
    write_run_file(tmp_path, RunFile(name="serve", pid=os.getpid(), started_s=started_s, started_ticks=ticks))
    assert read_run_file(tmp_path, "serve") is None


@on_linux
def test_a_process_that_has_ended_and_is_not_reaped_does_not_run(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        ticks = ticks_of(ended.pid)
        write_run_file(tmp_path, RunFile(name="serve", pid=ended.pid, started_s=wall_clock_s(), started_ticks=ticks))
        assert read_run_file(tmp_path, "serve") is None


@on_linux
def test_the_ticks_are_found_whatever_the_name_of_the_program(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "600"]) as process:
        try:
            until(lambda: b") R 1 (" in Path(f"/proc/{process.pid}/stat").read_bytes())
            ticks = ticks_of(process.pid)
            assert ticks is not None
            assert ticks >= (ticks_of(os.getpid()) or 0) > 0
        finally:
            process.kill()


@pytest.mark.parametrize("content", [b"", b"{", b'{"name": 1}'])
def test_a_damaged_run_file_is_the_same_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "serve.json").write_bytes(content)
    assert read_run_file(tmp_path, "serve") is None


def test_a_lock_is_held_once_and_given_back(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path, "all", patience_s=0.0),
        pytest.raises(AlreadyRunningError, match="already runs"),
        exclusive(tmp_path, "all", patience_s=0.1),
    ):
        pass
    with exclusive(tmp_path, "all", patience_s=0.0):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_set_the_event_and_the_old_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with listen() as signals:
        assert not signals.stop.is_set()
        os.kill(os.getpid(), number)
        assert signals.stop.wait(5)
        os.kill(os.getpid(), number)  # a second one is harmless
    assert signal.getsignal(number) == before


def test_a_daemon_announces_itself_stops_on_sigterm_and_removes_its_run_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with start(log, "serve", "10", "obeys") as process:
        until(lambda: len(lines(log)) == 1)
        record = read_run_file(run_directory(tmp_path), "serve")
        assert record is not None
        assert (record.pid, record.admin_port, record.port) == (process.pid, 1234, 5678)
        assert record.started_ticks == ticks_of(process.pid)
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert not (tmp_path / "run" / "serve.json").exists()


def test_a_second_daemon_of_the_same_name_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with start(log, "serve", "10", "obeys") as first:
        until(lambda: len(lines(log)) == 1)
        with start(log, "serve", "10", "obeys") as second:
            _, error = second.communicate(timeout=20)
        assert second.returncode == 1
        assert b"AlreadyRunningError" in error
        assert read_run_file(run_directory(tmp_path), "serve") is not None
        first.terminate()
        first.communicate(timeout=20)


def test_a_daemon_that_hangs_ends_by_force_once_its_grace_is_over(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with start(log, "serve", "0.3", "hangs") as process:
        until(lambda: len(lines(log)) == 1)
        asked_s = time.monotonic()
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == HARD_EXIT_CODE
    assert time.monotonic() - asked_s >= 0.3
    assert gone(pids(log, "serve")[0])
