"""A process of ours: its grace, its locks, the file that says where it is, and the watch on its supervisor.

A supervised child holds the read end of a pipe, its lifeline. The supervisor holds the only write end and never writes:
the pipe reads as closed the moment the supervisor is gone, however it died, so no child outlives it by more than its
grace. Signals are in `ops.processes.signals`.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ops.processes.signals import Signals, listen
from ops.state.private_files import tighten
from ops.state.run_files import RunFile, run_directory, ticks_of, write_run_file
from store.errors import AlreadyRunningError, StateUnwritableError
from store.log.lazy import logger

_log = logger()
_ANNOUNCE_AGAIN_S: Final = 1.0
_LOCK_POLL_S: Final = 0.05
HARD_EXIT_CODE: Final = 70


@contextmanager
def exclusive(directory: Path, name: str, *, patience_s: float) -> Iterator[None]:
    """Hold `<name>.lock` in the directory; the kernel gives it back however the process dies.

    Args:
        directory: an existing directory.
        name: what is locked.
        patience_s: how long to wait for a holder that is on its way out.

    Raises:
        AlreadyRunningError: another process holds it still.
        StateUnwritableError: the lock file cannot be made.
    """
    deadline = time.monotonic() + patience_s
    try:
        lock = os.open(directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"state_dir: {directory / name}.lock cannot be made: {error.strerror}"
        raise StateUnwritableError(message) from error
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    message = f"`{name}` already runs on {directory.parent}: stop it first"
                    raise AlreadyRunningError(message) from error
                time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(lock)


class Daemon:
    """The running process as its own code sees it."""

    def __init__(self, name: str, directory: Path, signals: Signals, started_s: float) -> None:
        """Made by `daemon`."""
        self.name = name
        self.stop = signals.stop
        self.on_hangup = signals.on_hangup
        self._directory = directory
        self._started_s = started_s

    def announce(self, *, admin_port: int | None = None, port: int | None = None) -> None:
        """Write the run file: from now on the CLI and the demo find this process.

        On a disk that takes nothing the process goes on without, and the file is written once there is room.
        """
        record = RunFile(
            name=self.name,
            pid=os.getpid(),
            started_s=self._started_s,
            started_ticks=ticks_of(os.getpid()),
            admin_port=admin_port,
            port=port,
        )
        keep_trying(lambda: write_run_file(self._directory, record), f"run file of {self.name}", self.stop)


def keep_trying(write: Callable[[], None], what: str, stop: threading.Event) -> None:
    """Write now, or else in the background for as long as the disk takes nothing."""
    try:
        write()
    except OSError as error:
        _log.error("not_written", what=what, why=error.strerror, action="trying on")
        _start_thread("write", lambda: _write_later(write, what, stop))


def _write_later(write: Callable[[], None], what: str, stop: threading.Event) -> None:
    while not stop.wait(_ANNOUNCE_AGAIN_S):
        with suppress(OSError):
            write()
            _log.info("written", what=what)
            return


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
        StateUnwritableError: the state directory does not even take its lock.
    """
    directory = run_directory(state_dir)
    tighten(state_dir)
    finished = threading.Event()
    orphaned = threading.Event()
    with exclusive(directory, name, patience_s=patience_s), listen() as signals:
        stop = signals.stop
        if lifeline is not None:
            _start_thread("lifeline", lambda: _watch_lifeline(lifeline, stop, orphaned))
        _start_thread("grace", lambda: _enforce_grace(name, stop, finished, grace_s))
        try:
            yield Daemon(name, directory, signals, now_s)
        finally:
            stop.set()
            with suppress(OSError):
                (directory / f"{name}.json").unlink(missing_ok=True)
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
    import psutil  # noqa: PLC0415 - as above

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
