"""One warm child process for the heavy work: a crash or an out-of-memory there cannot take the daemon down.

The child imports torch once (seconds) and then serves work after work; after a death the next work starts a fresh one.
"""

import importlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, Literal

from store.errors import StoreUnavailableError, UnderstudyError
from store.faults.points import arm, armed
from trainer.launch.parents import follow

WorkOutcome = Literal["done", "away", "failed", "told"]

_TELL_EVERY_S: Final = 0.25
_POLL_S: Final = 0.2
_END_S: Final = 5.0


class WorkerDiedError(UnderstudyError):
    """The child died (a crash, the kernel's OOM killer). Try again: nothing was published."""


class WorkerTimeoutError(UnderstudyError):
    """The work took longer than it may and was ended. Raise `trainer.cycle_timeout_s` or ask less of it."""


class WorkerStoppedError(UnderstudyError):
    """The daemon is stopping; the work is dropped and will be done anew."""


class WorkFailedError(UnderstudyError):
    """The work raised; the message is its error, and the child's traceback stands beside it."""

    def __init__(self, summary: str, traceback: str = "") -> None:
        super().__init__(summary)
        self.traceback = traceback


class Worker:
    """Runs `module:function` in a child, one work and one result at a time; both must pickle.

    The function is called with the work, and with a function that it tells how far it has come.
    """

    def __init__(self, entry: str) -> None:
        """Name the function that does the work; it is imported in the child alone."""
        self._entry = entry
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        return self._process.pid if self._process is not None and self._process.is_alive() else None

    def warm(self) -> None:
        """Start the child now, so that the first cycle need not wait for its imports."""
        self._ensure()

    def run(
        self,
        work: Any,
        *,
        timeout_s: float,
        stop: threading.Event,
        tick: Callable[[], None],
        told: Callable[..., None] = lambda *_: None,
    ) -> Any:
        """Do one piece of work in the child.

        Args:
            work: the argument of the entry function.
            timeout_s: seconds after which the child is ended.
            stop: set when the daemon is asked to stop.
            tick: called a few times a second while the work runs, for leases; what it raises ends the work.
            told: called with what the work says of how far it has come; not every word of it arrives.

        Raises:
            WorkerDiedError, WorkerTimeoutError, WorkerStoppedError, WorkFailedError: see each.
            StoreUnavailableError: what the work raised, if it was that: the store is away, and nothing failed.
        """
        connection = self._ensure()
        try:
            connection.send(work)
            outcome, value = _await_answer(connection, timeout_s, stop, tick, told)
        except (EOFError, OSError) as error:
            self._process.join(_END_S)
            code = self._process.exitcode
            self.close()
            message = f"the process died (exit code {code})"
            raise WorkerDiedError(message) from error
        except BaseException:
            self.close()  # what it is still busy with is of no use any more
            raise
        match outcome:
            case "away":
                raise StoreUnavailableError(value)
            case "failed":
                raise WorkFailedError(*value)
            case _:
                return value

    def close(self) -> None:
        """End the child, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.terminate()
            self._process.join(_END_S)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process.close()
            self._process = None

    def _ensure(self) -> Connection:
        if self._connection is not None and self.pid is not None:
            return self._connection
        self.close()
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._entry, os.getpid(), armed())
        self._process = self._context.Process(target=_serve, args=arguments, name="cycle")
        self._process.start()
        theirs.close()
        self._connection = ours
        return ours


def _await_answer(
    connection: Connection,
    timeout_s: float,
    stop: threading.Event,
    tick: Callable[[], None],
    told: Callable[..., None],
) -> tuple[WorkOutcome, Any]:
    """Wait until the child has ended its work (or has died, which reads as the end of the pipe)."""
    deadline = time.monotonic() + timeout_s
    while True:
        if connection.poll(_POLL_S):
            outcome, value = connection.recv()
            if outcome != "told":
                return outcome, value
            told(*value)
        tick()
        if stop.is_set():
            message = "stopped in the middle of a cycle"
            raise WorkerStoppedError(message)
        if time.monotonic() > deadline:
            message = f"the cycle took longer than {timeout_s:.0f} s"
            raise WorkerTimeoutError(message)


def _serve(connection: Connection, entry: str, parent: int, fail_point: str | None) -> None:
    """The child's loop: it ends with the pipe, and at once when its parent has died."""
    arm(fail_point)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # what reaches the whole terminal; the daemon ends us itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    follow(parent, lambda: os._exit(1))
    module, _, function = entry.partition(":")
    work_on = getattr(importlib.import_module(module), function)
    while True:
        try:
            work = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[WorkOutcome, Any] = ("done", work_on(work, _teller(connection)))
        except StoreUnavailableError as error:
            answer = ("away", str(error))
        except Exception as error:  # noqa: BLE001 - the daemon reports it whatever it is
            answer = ("failed", (f"{type(error).__name__}: {error}", traceback.format_exc()))
        connection.send(answer)


def _teller(connection: Connection) -> Callable[..., None]:
    """Passes on what the work says: each new thing at once, the same with other numbers a few times a second."""
    last: tuple[Any, float] = (None, 0.0)

    def tell(what: Any, *more: Any) -> None:
        nonlocal last
        now_s = time.monotonic()
        if what != last[0] or now_s - last[1] >= _TELL_EVERY_S:
            last = (what, now_s)
            connection.send(("told", (what, *more)))

    return tell
