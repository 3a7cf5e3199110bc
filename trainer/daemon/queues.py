"""One line of cycles for each device: a lane waits for the device, never for a lane on another one."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from store.event import Lane
from store.log.lazy import logger
from trainer.worker import Worker

log = logger()

Job = Callable[[Worker], None]
"""What is done with a device's worker; it raises nothing."""

_END: Final = None


class Queues(Protocol):
    """Who runs cycles."""

    def put(self, device: str, lane: Lane, job: Job) -> None:
        """Run a job when the device is free; a lane has one at a time."""

    def busy(self, lane: Lane) -> bool:
        """Whether a job of the lane runs or waits."""

    def warm(self, device: str) -> None:
        """Start the device's worker now, so that the first cycle need not wait for its imports."""

    def close(self) -> None:
        """Wait for what was put, then end the workers."""


@dataclass(slots=True)
class _Line:
    worker: Worker
    jobs: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue)
    thread: threading.Thread | None = None


class DeviceQueues:
    """A thread and a worker for each device. Satisfies `Queues`."""

    def __init__(self, new_worker: Callable[[], Worker]) -> None:
        """Start nothing yet.

        Args:
            new_worker: makes a device's worker.
        """
        self._new_worker = new_worker
        self._lines: dict[str, _Line] = {}
        self._busy: set[Lane] = set()
        self._lock = threading.Lock()

    def put(self, device: str, lane: Lane, job: Job) -> None:
        """See `Queues`; a lane whose job runs or waits gets no second one."""
        with self._lock:
            if lane in self._busy:
                return
            self._busy.add(lane)
            line = self._line(device)
            if line.thread is None:
                line.thread = threading.Thread(target=_run, args=(line,), name=f"cycles-{device}", daemon=True)
                line.thread.start()
            line.jobs.put(lambda: self._do(line, lane, job))

    def busy(self, lane: Lane) -> bool:
        """See `Queues`."""
        return lane in self._busy

    def warm(self, device: str) -> None:
        """See `Queues`."""
        with self._lock:
            self._line(device).worker.warm()

    def close(self) -> None:
        """See `Queues`."""
        for line in self._lines.values():
            line.jobs.put(_END)
            if line.thread is not None:
                line.thread.join()
            line.worker.close()

    def _line(self, device: str) -> _Line:
        if device not in self._lines:
            self._lines[device] = _Line(self._new_worker())
        return self._lines[device]

    def _do(self, line: _Line, lane: Lane, job: Job) -> None:
        try:
            job(line.worker)
        except Exception:
            log.exception("a cycle's thread met what it should have handled", lane=str(lane))
        finally:
            self._busy.discard(lane)


def _run(line: _Line) -> None:
    while (job := line.jobs.get()) is not _END:
        job()
