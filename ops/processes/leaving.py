"""How a process of ours leaves: once all is closed, at once, whatever threads are still in the middle of a computation.

A daemon thread that comes back from C++ (a forward pass, a load) while the interpreter is being taken down is unwound
through frames that do not allow it: "terminate called without an active exception", and a process that was stopped in
order ends as if it had crashed. Nothing of ours is left to be done then: files are fsynced, connections closed.
"""

import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_program = False  # this process is a program of ours, and not one that called into us
_daemon = False


def is_a_daemon() -> None:
    """Say that this program is a long-lived process; what other commands leave behind, the interpreter sees to."""
    global _daemon  # noqa: PLW0603 - about the process, and there is one
    if _program:
        from ops.processes.signals import deaf_after_listening  # noqa: PLC0415 - for daemons alone

        _daemon = True
        deaf_after_listening()


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Run the program; a daemon that leaves threads behind ends with this context, with the exit code it would have."""
    global _program  # noqa: PLW0603 - as above
    _program = True
    try:
        yield
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else 1 if end.code else 0)
        raise
    except BaseException:
        if _others():
            with suppress(OSError):
                traceback.print_exc()
            _leave(1)
        raise
    _leave(0)


def _leave(code: int) -> None:
    if not _others():
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _others() -> bool:
    """Whether this is a daemon, and another thread than this one is alive, a pool's among them."""
    return _daemon and any(thread is not threading.current_thread() for thread in threading.enumerate())
