"""Work that a child process does in the worker's tests."""

import os
import signal
import time

from store.errors import StoreUnavailableError


def answer(work: str) -> tuple[str, int]:
    """Do what `work` names, and say in which process."""
    match work:
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            message = "a fit went wrong"
            raise ValueError(message)
        case "away":
            message = "Connection refused"
            raise StoreUnavailableError(message)
        case "sleep":
            time.sleep(60)
        case _:
            pass
    return work, os.getpid()
