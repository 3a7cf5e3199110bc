"""Reads that may take seconds: in threads of their own, few at once, each found again for a moment.

The gateway answers questions in the same process, so nothing here works in its threads, and however many look at the
console, a value is worked out once.
"""

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

AT_ONCE: Final = 2
_MOST_KEPT: Final = 256

Found = TypeVar("Found")


class StillReadingError(Exception):
    """It takes longer than one should wait for; it goes on, and is there the next time."""


@dataclass(slots=True)
class _Read:
    future: "Future[Any]"
    done_s: float | None = None


class Kept:
    """Values by name, each worked out by one thread and kept for as long as its reader wants."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Nothing is kept yet."""
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="console")
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._reads: dict[Hashable, _Read] = {}

    def get(self, name: Hashable, make: Callable[[], Found], *, keep_s: float, wait_s: float) -> Found:
        """The value of that name: what is kept, or what `make` finds now.

        Args:
            name: of the value.
            make: finds it; what it raises is raised here, and kept as long.
            keep_s: for how long, from the moment when it was found.
            wait_s: for it, at most.

        Raises:
            StillReadingError: it is not there yet.
        """
        future = self._future(name, make, keep_s)
        try:
            return future.result(timeout=wait_s)
        except TimeoutError:
            if future.done():
                raise
            raise StillReadingError from None

    def forget(self) -> None:
        """Read everything anew from now on: something was changed."""
        with self._lock:
            self._reads = {}

    def close(self) -> None:
        """Begin nothing more; what is at work ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _future(self, name: Hashable, make: Callable[[], Found], keep_s: float) -> "Future[Found]":
        with self._lock:
            read = self._reads.get(name)
            if read is not None and (read.done_s is None or self._monotonic() - read.done_s < keep_s):
                return read.future
            while len(self._reads) >= _MOST_KEPT:
                del self._reads[next(iter(self._reads))]
            read = self._reads[name] = _Read(self._pool.submit(make))
        read.future.add_done_callback(lambda _: self._note(read))
        return read.future

    def _note(self, read: _Read) -> None:
        read.done_s = self._monotonic()
