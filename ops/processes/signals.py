"""What signals do to a process of ours: none ends it without its grace.

SIGTERM, SIGINT (Ctrl-C) and SIGQUIT (Ctrl-backslash) ask for the stop, once: repeats change nothing. SIGHUP reloads the
settings that are named reloadable; where the terminal that the process was started from is gone, nobody is left to
stop it, and it stops (not under `nohup`). SIGUSR1 and SIGUSR2 are ignored, and said.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from ops.processes.early.hangups import began_in_terminal, has_terminal
from store.log.lazy import logger

_log = logger(__name__)
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
            before = self.stop.is_set()
            self.stop.set()
            if not before:
                _log.info("stopping", signal=name)
        elif number != signal.SIGHUP:
            _log.warning("signal_ignored", signal=name)
        elif self._in_terminal and not has_terminal():
            self.stop.set()
            _log.warning("stopping", signal=name, why="the terminal is gone; nohup keeps it running")
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
    """Hear the process's signals until the context ends; entered on the main thread.

    The interpreter writes each signal's number into a pipe in whichever thread the kernel has interrupted, and a thread
    of ours does what is to be done. A handler in Python would run on the main thread, once that wakes: of two signals
    that come together the second one interrupts another thread, and waits for as long as the main thread does.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signals = Signals(in_terminal=not under_nohup and began_in_terminal())
    thread = threading.Thread(target=_hear, args=(heard, signals), name="signals", daemon=True)
    thread.start()
    fd_before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _to_the_pipe) for number in _HEARD}
    held = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # held back since the process began
    try:
        yield signals
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        for number, handler in before.items():
            signal.signal(number, handler if _afterwards is None else _afterwards)
        signal.set_wakeup_fd(fd_before)
        os.close(told)


def _to_the_pipe(_number: int, _frame: FrameType | None) -> None:
    """Nothing: that there is a handler makes the interpreter write the number into the pipe."""


def _hear(heard: int, signals: Signals) -> None:
    """Do what each signal asks for until the pipe's other end is closed."""
    while numbers := os.read(heard, 512):
        for number in numbers:
            if number in _HEARD:
                with suppress(Exception):  # a line that cannot be written (the terminal is gone) must not deafen us
                    signals.heard(number)
    os.close(heard)
