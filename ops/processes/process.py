"""A process of ours: its signals, its grace, the file that says where it is, and the watch on its supervisor.

A supervised child holds the read end of a pipe, its lifeline. The supervisor holds the only write end and never writes:
the pipe reads as closed the moment the supervisor is gone, however it died, so no child outlives it by more than its
grace.
"""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec
import psutil
import structlog

from store.errors import UnderstudyError

_log = structlog.get_logger()
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_LOCK_POLL_S: Final = 0.05
_SAME_PROCESS_S: Final = 2.0
HARD_EXIT_CODE: Final = 70


class AlreadyRunningError(UnderstudyError):
    """Another process of this name works on the same state directory. Stop it first."""


class RunFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a running process can be found: `state_dir/run/<name>.json`."""

    name: str
    pid: int
    started_s: float
    admin_port: int | None = None
    port: int | None = None
    url: str | None = None  # of the private Redis


def run_directory(state_dir: Path) -> Path:
    """Where run files, locks and the records of cycles and swaps lie; made where it is missing."""
    directory = state_dir / "run"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def write_run_file(directory: Path, record: RunFile) -> None:
    """Write a run file in one step."""
    aside = directory / f".{record.name}.{record.pid}.tmp"
    aside.write_bytes(msgspec.json.encode(record))
    aside.replace(directory / f"{record.name}.json")


def read_run_file(directory: Path, name: str) -> RunFile | None:
    """The run file of a process that is alive, else None: a killed process leaves its file behind."""
    try:
        record = msgspec.json.decode((directory / f"{name}.json").read_bytes(), type=RunFile)
    except (OSError, msgspec.MsgspecError):
        return None
    return record if _is_alive(record) else None


def _is_alive(record: RunFile) -> bool:
    """Whether the pid is still the process that wrote the file: pids are used again."""
    try:
        process = psutil.Process(record.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(process.create_time() <= record.started_s + _SAME_PROCESS_S)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def exclusive(directory: Path, name: str, *, patience_s: float) -> Iterator[None]:
    """Hold `<name>.lock` in the directory; the kernel gives it back however the process dies.

    Args:
        directory: an existing directory.
        name: what is locked.
        patience_s: how long to wait for a holder that is on its way out.

    Raises:
        AlreadyRunningError: another process holds it still.
    """
    deadline = time.monotonic() + patience_s
    with (directory / f"{name}.lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    message = f"`{name}` already runs on {directory.parent}: stop it first"
                    raise AlreadyRunningError(message) from error
                time.sleep(_LOCK_POLL_S)
        yield


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set. Repeats change nothing: a terminal and `make` may both send one.

    Must be entered on the main thread.
    """
    stop = threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in _STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Daemon:
    """The running process as its own code sees it."""

    def __init__(self, name: str, directory: Path, stop: threading.Event, started_s: float) -> None:
        """Made by `daemon`."""
        self.name = name
        self.stop = stop
        self._directory = directory
        self._started_s = started_s

    def announce(self, *, admin_port: int | None = None, port: int | None = None) -> None:
        """Write the run file: from now on the CLI and the demo find this process."""
        record = RunFile(name=self.name, pid=os.getpid(), started_s=self._started_s, admin_port=admin_port, port=port)
        write_run_file(self._directory, record)


@contextmanager
def daemon(
    name: str, state_dir: Path, *, lifeline: int | None, grace_s: float, patience_s: float, now_s: float
) -> Iterator[Daemon]:
    """Run one long-lived process: alone under its lock, stopped by signals or by its supervisor's death.

    Args:
        name: `serve`, `ingest` or `train`.
        state_dir: the state directory; one process of each name works on it.
        lifeline: read end of the supervisor's pipe, None without a supervisor.
        grace_s: after the stop was asked for, the process ends itself by force once this is over.
        patience_s: how long to wait for a predecessor that is on its way out.
        now_s: Unix seconds.

    Raises:
        AlreadyRunningError: a process of this name is at work.
    """
    directory = run_directory(state_dir)
    finished = threading.Event()
    orphaned = threading.Event()
    with exclusive(directory, name, patience_s=patience_s), stop_on_signals() as stop:
        if lifeline is not None:
            _start_thread("lifeline", lambda: _watch_lifeline(lifeline, stop, orphaned))
        _start_thread("grace", lambda: _enforce_grace(name, stop, finished, grace_s))
        try:
            yield Daemon(name, directory, stop, now_s)
        finally:
            (directory / f"{name}.json").unlink(missing_ok=True)
            stop.set()
            finished.set()
            if orphaned.is_set():
                _kill_descendants()  # with a supervisor alive it does this itself


def _start_thread(name: str, target: Callable[[], None]) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()


def _watch_lifeline(lifeline: int, stop: threading.Event, orphaned: threading.Event) -> None:
    os.set_inheritable(lifeline, False)  # children of ours must not hold the pipe
    with suppress(OSError):
        while os.read(lifeline, 1):
            pass
    orphaned.set()
    if not stop.is_set():
        _log.error("supervisor_gone", action="stopping")
        stop.set()


def _enforce_grace(name: str, stop: threading.Event, finished: threading.Event, grace_s: float) -> None:
    stop.wait()
    if finished.wait(grace_s):
        return
    _log.error("grace_over", process=name, grace_s=grace_s, action="ending by force")
    _kill_descendants()
    os._exit(HARD_EXIT_CODE)


def _kill_descendants() -> None:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
