"""Ticks and ages on monotonic time: the wall clock may step back or leap ahead, and the schedule goes on.

APScheduler reckons its run times by the wall clock: one that steps back by half an hour puts the next tick off by that.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from store.event import wall_clock_s
from store.log.lazy import logger

log = logger()

_LATE: Final = 3.0  # ticks' time without one, and the scheduler is woken


class Every(BaseTrigger):  # type: ignore[misc] # the library has no types
    """Fires at once, then so many seconds after each firing; what was missed is not made up for."""

    def __init__(self, seconds: float) -> None:
        self._step = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """When next, by the wall clock as it stands now."""
        return now if previous_fire_time is None else now + self._step


@dataclass(slots=True)
class Pulse:
    """The last sign of life, monotonic; any thread may give one or ask."""

    monotonic: Callable[[], float] = time.monotonic
    _last_s: float = field(init=False)

    def __post_init__(self) -> None:
        """Born alive."""
        self._last_s = self.monotonic()

    def beat(self) -> None:
        """Give a sign of life."""
        self._last_s = self.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the last one."""
        return self.monotonic() - self._last_s


@dataclass(slots=True)
class Age:
    """Seconds since a moment that somebody noted by the wall clock, whatever that clock does from now on."""

    monotonic: Callable[[], float] = time.monotonic
    _moment_s: float | None = None
    _known_s: float = 0.0  # its age when it was first asked for
    _asked_s: float = 0.0  # when that was, monotonic

    def since(self, moment_s: float, now_s: float) -> float:
        """The age of a moment; one that lies ahead is as old as the knowledge of it.

        Args:
            moment_s: Unix seconds, as noted.
            now_s: Unix seconds; looked at only when this moment is new.
        """
        if moment_s != self._moment_s:
            self._moment_s, self._known_s, self._asked_s = moment_s, max(0.0, now_s - moment_s), self.monotonic()
        return self._known_s + self.monotonic() - self._asked_s


def run_ticks(
    tick: Callable[[], None],
    *,
    tick_s: float,
    stop: threading.Event,
    monotonic: Callable[[], float] = time.monotonic,
    now_s: Callable[[], float] = wall_clock_s,
) -> None:
    """Call `tick` every `tick_s` seconds until `stop` is set, one call at a time; the last one is waited for.

    Args:
        tick: what is called; it raises nothing.
        tick_s: seconds from one call to the next.
        stop: set when there is to be no further one.
        monotonic: the clock that counts.
        now_s: the clock that the scheduler reckons by, Unix seconds.
    """
    idle = Pulse(monotonic)
    busy = threading.Event()

    def run() -> None:
        busy.set()
        try:
            tick()
        finally:
            idle.beat()
            busy.clear()

    scheduler = BackgroundScheduler(
        timezone=UTC,
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
    )
    job: Any = scheduler.add_job(run, Every(tick_s), id="tick")
    scheduler.start()
    try:
        while not stop.wait(tick_s):
            if idle.silent_s > _LATE * tick_s and not busy.is_set():
                log.warning(
                    "no tick came: was the wall clock set back? the scheduler is woken",
                    waited_s=round(idle.silent_s, 1),
                )
                job.modify(next_run_time=datetime.fromtimestamp(now_s(), UTC))
                idle.beat()  # once a lateness
    finally:
        scheduler.shutdown(wait=True)
