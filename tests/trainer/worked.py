"""Work that a child process does in the worker's tests."""

import os
import signal
import time
from collections.abc import Callable

from store.errors import StoreUnavailableError


def answer(work: str, tell: Callable[..., None]) -> tuple[str, int]:
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
        case "tell":
            for stage, done in (("reading", None), ("fitting", 0.1), ("fitting", 0.2), ("judging", None)):
                tell(stage, done)
        case "sleep":
            time.sleep(60)
        case _:
            pass
    return work, os.getpid()
