"""What a replica says of its lanes, second by second: to Redis and to Prometheus, and into the books."""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from serve.lane.opened import OpenLane
from serve.lane.parts import Services
from store.control import Heartbeat
from store.errors import StoreUnavailableError
from store.log.lazy import logger

_log: Final = logger(__name__)


class Beats:
    """The heartbeats of a process' lanes; while Redis is down, Prometheus alone hears them."""

    def __init__(self, services: Services) -> None:
        """Prepare."""
        self._services = services
        self._redis_answers = True

    async def run(self, lanes: Callable[[], Sequence[OpenLane]], every_s: float, also: Callable[[], None]) -> None:
        """Beat until cancelled; `also` sets what is no lane's."""
        while True:
            await asyncio.gather(*map(self._beat, lanes()))
            also()
            await asyncio.sleep(every_s)

    async def write_books(self, lane: OpenLane) -> None:
        """Write down what was done since the last time.

        Raises:
            StoreUnavailableError: Redis takes nothing; it is kept.
        """
        tally = lane.service.counts.tally
        while (batch := tally.next_batch()) is not None:
            await asyncio.to_thread(self._services.write, lane.parts.settings.lane, batch)
            tally.written()
        tally.keep()

    def missing(self, lane: OpenLane) -> dict[str, bool]:
        """Which dependencies of a lane do not answer now."""
        return {
            "redis": lane.service.budget.silent or not self._redis_answers,
            "log": not self._services.sink.healthy,
            "teacher": not lane.service.teacher.available,
        }

    async def _beat(self, lane: OpenLane) -> None:
        """One that waits for a Redis that hangs does not keep the others."""
        self._tell(lane)  # what is known already: it may be long until Redis has answered
        try:
            await lane.service.budget.tick()
            lane.service.routing.ledger_answered()
            await asyncio.to_thread(self._services.announce, lane.parts.settings.lane, self._heartbeat(lane))
            await self.write_books(lane)
            self._redis_answers = True
        except StoreUnavailableError as error:
            self._redis_answers = False
            lane.service.counts.tally.keep()
            _log.warning("no heartbeat while Redis does not answer", error=str(error))
        self._tell(lane)

    def _heartbeat(self, lane: OpenLane) -> Heartbeat:
        service = lane.service
        return service.counts.heartbeat(
            version=service.slots.version,
            at_s=self._services.now(),
            now_s=monotonic(),
            used_calls=service.budget.used_calls,
            limit_calls=lane.parts.settings.budget.calls_per_day,
            suspended=lane.suspended,
        )

    def _tell(self, lane: OpenLane) -> None:
        """Set the lane's gauges."""
        service, settings, metrics = lane.service, lane.parts.settings, self._services.metrics
        labels = (settings.lane.tenant, settings.lane.use_case)
        metrics.budget_used.labels(*labels).set(service.budget.used_calls)
        metrics.budget_limit.labels(*labels).set(settings.budget.calls_per_day)
        metrics.suspended.labels(*labels).set(lane.suspended)
        metrics.audits_waiting.labels(*labels).set(service.audits.waiting)
        metrics.teacher_waiting.labels(*labels).set(max(0, service.turns.asked - service.turns.concurrency))
        for name, missing in self.missing(lane).items():
            metrics.degraded.labels(*labels, name).set(missing)
