"""The demo's own processes: started apart from the terminal, stopped in order, and counted at the end."""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from store.errors import UnderstudyError

_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 0.05
_STOP_S: Final = 75.0  # longer than the gateway's own grace
_LOG_TAIL_LINES: Final = 12


class DemoError(UnderstudyError):
    """The demo could not be run; its message says what to look at."""


@dataclass(slots=True)
class Descendants:
    """Every process that came from this one since it began to look, also one whose parent has ended since."""

    seen: dict[tuple[int, float], psutil.Process] = field(default_factory=dict)
    before: frozenset[tuple[int, float]] = field(default_factory=lambda: frozenset(_descendants()))

    def look(self) -> None:
        """Remember the descendants there are now."""
        self.seen |= {key: process for key, process in _descendants().items() if key not in self.before}

    def left(self, folder: Path, *, patience_s: float) -> int:
        """How many are still alive, or work in `folder`, once `patience_s` have passed."""
        deadline = time.monotonic() + patience_s
        while (alive := self._alive(folder)) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return alive

    def _alive(self, folder: Path) -> int:
        self.look()
        found = {key for key, process in self.seen.items() if _is_alive(process)}
        return len(found | set(_working_in(folder.resolve())))


def _descendants() -> dict[tuple[int, float], psutil.Process]:
    """Children and theirs, by process id and the time they started."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found[process.pid, process.create_time()] = process
    return found


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _working_in(folder: Path) -> Iterator[tuple[int, float]]:
    """Processes whose working directory lies in the folder, however they came about."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(folder):
                yield process.pid, process.create_time()


@contextmanager
def running(name: str, command: Iterable[str], *, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a session of its own; it is stopped with the context, or when the demo dies.

    Args:
        name: for messages.
        command: `python -m` is put before it.
        folder: its working directory.
        log: where its output goes.
    """
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,  # Ctrl-C in the terminal reaches the demo alone
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads of ours run yet
        )
    try:
        yield process
    finally:
        _stop(name, process)


def _stop(name: str, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()
        message = f"{name} did not stop within {_STOP_S:.0f} s and was killed"
        raise DemoError(message) from None


def explain_end(name: str, process: subprocess.Popen[bytes], log: Path) -> str | None:
    """Why a process that should run does not; None while it runs."""
    if process.poll() is None:
        return None
    tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-_LOG_TAIL_LINES:])
    return f"{name} ended with code {process.returncode}; the end of {log}:\n{tail}"
