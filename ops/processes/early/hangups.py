"""SIGHUP before a process can hear it: held back from its first line on, through seconds of imports.

By default it would end the process. `ops.processes.signals.listen` lets it in. Imports nothing that takes time.
"""

import os
import signal

_in_terminal: bool | None = None  # as the process began, None where nothing was held back


def hold_back() -> None:
    """Hold SIGHUP back until `listen`; called before anything else is imported, and before there is a second thread."""
    global _in_terminal  # noqa: PLW0603 - about the process, and there is one
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    _in_terminal = has_terminal()


def began_in_terminal() -> bool:
    """Whether the process had a terminal when it began: it may have gone since, with a SIGHUP that is held back."""
    return has_terminal() if _in_terminal is None else _in_terminal


def has_terminal() -> bool:
    """Whether there is a terminal now that controls this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
