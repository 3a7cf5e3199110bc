"""Processes that end with the one that started them: it may be killed, and cannot end them then."""

import os
import threading
import time
from collections.abc import Callable
from typing import Final

_LOOK_S: Final = 0.5


def follow(parent: int, end: Callable[[], object]) -> None:
    """Call `end` soon after a process has died.

    Args:
        parent: its id; who is another's child already is called at once.
        end: ends this process.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        end()

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
