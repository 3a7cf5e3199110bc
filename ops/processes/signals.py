"""What signals do to a process of ours: none ends it without its grace.

SIGTERM, SIGINT (Ctrl-C) and SIGQUIT (Ctrl-backslash) ask for the stop, once: repeats change nothing. SIGHUP reloads the
settings that are named reloadable; where the terminal that the process was started from is gone, nobody is left to
stop it, and it stops (not under `nohup`). SIGUSR1 and SIGUSR2 are ignored, and said.
"""

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import structlog

_log = structlog.get_logger(__name__)
_STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_HEARD: Final = (*_STOP, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_afterwards: signal.Handlers | None = None  # None: as it was before


def deaf_after_listening() -> None:
    """Once the last `listen` has ended, all that is left is to exit: a signal then changes nothing, the code neither.

    For programs, which end with what they run.
    """
    global _afterwards  # noqa: PLW0603 - a process has one disposition of each signal, and this is about it
    _afterwards = signal.SIG_IGN


class Signals:
    """The stop that signals ask for, and what a SIGHUP does."""

    def __init__(self, *, in_terminal: bool) -> None:
        """Made by `listen`."""
        self.stop = threading.Event()
        self._in_terminal = in_terminal
        self._reload: Callable[[], None] | None = None
        self._missed = False  # a SIGHUP came before there was anything to reload
        self._guard = threading.Lock()

    def on_hangup(self, reload: Callable[[], None]) -> None:
        """Call this at each SIGHUP, and now if one has come already; in a thread of its own, one at a time."""
        with self._guard:
            self._reload, missed = reload, self._missed
        if missed:
            reload()

    def heard(self, number: int) -> None:
        """Do what a signal asks for."""
        name = signal.Signals(number).name
        if number in _STOP:
            if not self.stop.is_set():
                _log.info("stopping", signal=name)
            self.stop.set()
        elif number != signal.SIGHUP:
            _log.warning("signal_ignored", signal=name)
        elif self._in_terminal and not _has_terminal():
            _log.warning("stopping", signal=name, why="the terminal is gone; nohup keeps it running")
            self.stop.set()
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        with self._guard:
            reload = self._reload
            self._missed = reload is None
        if reload is None:
            _log.info("signal_ignored", signal="SIGHUP", why="no setting of this process is reloadable")
            return
        try:
            reload()
        except Exception:  # noqa: BLE001 - whatever is wrong with what was reloaded, the process goes on as it was
            _log.exception("reload_failed")


@contextmanager
def listen() -> Iterator[Signals]:
    """Hear the process's signals, on the main thread, until the context ends.

    The handler only queues the number (`SimpleQueue.put` may interrupt itself, an event's `set` may not); a thread does
    what is to be done.
    """
    numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def put(number: int, _frame: FrameType | None) -> None:
        numbers.put(number)

    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signals = Signals(in_terminal=not under_nohup and _has_terminal())
    before = {number: signal.signal(number, put) for number in _HEARD}
    held = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # our supervisor held it back until now
    thread = threading.Thread(target=_hear, args=(numbers, signals), name="signals", daemon=True)
    thread.start()
    try:
        yield signals
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        for number, handler in before.items():
            signal.signal(number, handler if _afterwards is None else _afterwards)
        numbers.put(None)


def _hear(numbers: "queue.SimpleQueue[int | None]", signals: Signals) -> None:
    while (number := numbers.get()) is not None:
        signals.heard(number)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
