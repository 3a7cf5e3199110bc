"""The gateway as a whole: how its lanes and devices start, and how they stop without losing a paid answer."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic
from typing import Final

import msgspec

from serve.escalation import Question
from serve.intake import Intake
from serve.lane.beat import Beats
from serve.lane.opened import OpenLane, open_lane
from serve.lane.parts import LaneParts, Services
from serve.request.admission import Admission, OverloadedError
from serve.settings import GatewaySettings
from serve.student.devices import Devices
from serve.student.follow import SwapRecord
from serve.student.line import Ticket
from serve.teacher.faults import REASONS
from store.errors import StoreUnavailableError
from store.event import TaskInput, new_event_id
from store.log.lazy import logger
from store.registry.files.durable import append_line

_log: Final = logger(__name__)
_PULSE_S: Final = 1.0
_SILENT_S: Final = 15.0
_LAST_CALL_RATIO: Final = 1 / 3  # of the grace: until then audits that wait are still sent; the rest is for answers
_HUNG_S: Final = 60.0  # in a forward pass; only a restart ends it


class Gateway:
    """Every lane's parts, put together."""

    def __init__(self, services: Services, settings: GatewaySettings) -> None:
        """Put the parts together; nothing runs before `start`."""
        self.settings = settings
        self.services = services
        self.intake = Intake()
        self.devices = Devices(settings, services.metrics.observe_forward)
        self.admission = Admission(max_in_flight=settings.max_in_flight)
        self._beats = Beats(services)
        self.lanes = [self._open(parts) for parts in services.lanes]
        self._loops: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pulse_s = monotonic()

    def healthy(self) -> bool:
        """Whether the loops tick; depends on neither log nor Redis. May be called from any thread."""
        return (
            monotonic() - self._pulse_s < _SILENT_S
            and self.devices.alive()
            and self.devices.hangs_s < _HUNG_S
            and not any(loop.done() for loop in self._loops)
        )

    def ready(self) -> bool:
        """Whether every lane has restored its champion (or has none) and is set up. May be called from any thread."""
        return all(lane.follow.settled and lane.unready is None for lane in self.lanes)

    def why_not(self) -> str:
        """What is not set up right, for whoever asks why this is not ready. May be called from any thread."""
        return "; ".join(why for lane in self.lanes if (why := lane.why_not) is not None)

    def degraded(self) -> list[str]:
        """What answers go on without: a lane's dependencies, by name. May be called from any thread.

        It makes no replica unready: all share these, so a load balancer would be left with none.
        """
        return [
            f"{name} of {lane.parts.settings.lane}"
            for lane in self.lanes
            for name, missing in self._beats.missing(lane).items()
            if missing
        ]

    @contextmanager
    def admit(self, lane: OpenLane, questions: int, tokens: int, *, forced: bool) -> Iterator[Ticket | None]:
        """Hold a request's place until it is answered; yields its ticket for the student.

        Raises:
            OverloadedError: it would wait for too long; it is counted.
        """
        service, slot = lane.service, lane.service.slots.current
        line = None if slot is None else self.devices.of(slot).line
        with ExitStack() as place:
            try:
                admitted = self.admission.admit(questions, tokens, service.turns, line, teacher=forced)
                ticket = place.enter_context(admitted)
            except OverloadedError as error:
                service.count_shed(error.reason)
                raise
            yield ticket

    async def start(self) -> None:
        """Start the parts on the running loop."""
        self._loop = asyncio.get_running_loop()
        await self.services.sink.start()
        for lane in self.lanes:
            lane.service.audits.start()
            self._loops.append(asyncio.create_task(lane.follow.run(), name=f"follow {lane.parts.settings.lane}"))
            self._loops.append(asyncio.create_task(self._try_teacher(lane), name=f"teacher {lane.parts.settings.lane}"))
        self._loops.append(asyncio.create_task(self._pulse(), name="pulse"))
        beats = self._beats.run(lambda: self.lanes, self.settings.follow_s, self._tell)
        self._loops.append(asyncio.create_task(beats, name="heartbeat"))

    def on_loop(self, call: Callable[[], None], *, after_s: float = 0.0) -> None:
        """Call something on the gateway's loop, which alone may touch its parts. May be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.call_later, after_s, call)

    def stop_asking(self) -> None:
        """Send no teacher anything any more: an answer would come too late for whoever waits, and has to be paid."""
        for lane in self.lanes:
            lane.stop_asking()

    def change(self, lanes: Sequence[OpenLane]) -> None:
        """The same lanes with other keys, budgets and shares of audits, from the next question on. On the loop."""
        for lane in lanes:
            lane.change(lane.parts)
        self.lanes = list(lanes)

    async def stop(self) -> None:
        """Wait for paid answers and audits within the grace, then close what they needed, in that order."""
        deadline_s = monotonic() + self.settings.grace_s
        self.on_loop(self.stop_asking, after_s=self.settings.grace_s * _LAST_CALL_RATIO)
        for lane in self.lanes:
            cut = await lane.service.finish_paid(max(0.1, deadline_s - monotonic()))
            lost = await lane.service.audits.drain(max(0.1, deadline_s - monotonic()))
            if cut or lost:
                _log.error(
                    "cut off at shutdown: raise the grace", lane=str(lane.parts.settings.lane), answers=cut, audits=lost
                )
        await self.services.sink.close()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for lane in self.lanes:
            lane.follow.close()
            with suppress(StoreUnavailableError):
                await self._beats.write_books(lane)
            lane.service.counts.tally.keep()
            await lane.service.budget.close()
            await lane.close_teacher()
        self.intake.close()
        await asyncio.to_thread(self.devices.close)

    def _open(self, parts: LaneParts) -> OpenLane:
        return open_lane(
            parts,
            self.services,
            self.settings,
            forward=lambda slot: self.devices.of(slot).executor,
            record=self._record,
        )

    async def _pulse(self) -> None:
        while True:
            self._pulse_s = monotonic()
            await asyncio.sleep(_PULSE_S)

    async def _try_teacher(self, lane: OpenLane) -> None:
        """Say what the teacher refuses, and try now and then whether it still does.

        A gateway that is not ready gets no questions, so it asks one of its own: when the breaker lets it, and where
        the budget pays.
        """
        labels = (lane.parts.settings.lane.tenant, lane.parts.settings.lane.use_case)
        while True:
            refused = lane.teacher.refused
            for reason in REASONS:
                self.services.metrics.teacher_refused.labels(*labels, reason).set(reason == refused)
            if refused is not None and lane.teacher.available:
                await lane.service.try_teacher(self._question_of_our_own(lane.face.sample))
            await asyncio.sleep(self.settings.follow_s)

    def _question_of_our_own(self, sample: TaskInput) -> Question:
        now_s = self.services.now()
        return Question(
            value=sample,
            redacted=sample,
            item_id="",
            event_id=new_event_id(now_s, self.services.rng),
            at_s=now_s,
            subject=None,
            forced=True,
        )

    def _tell(self) -> None:
        """Set the gauges that are no lane's."""
        metrics, devices = self.services.metrics, self.devices.all
        metrics.line_tokens.set(sum(device.line.tokens for device in devices))
        metrics.line_seconds.set(max((device.line.wait_of_s(1) for device in devices), default=0.0))
        metrics.hung_seconds.set(self.devices.hangs_s)
        if (vectors := self.services.vectors()) is not None:
            for gauge, count in zip(
                (metrics.vectors_found, metrics.vectors_computed, metrics.vectors_kept), vectors, strict=True
            ):
                gauge.set(count)

    def _record(self, swap: SwapRecord) -> None:
        """Append one line to swaps.jsonl."""
        append_line(self.services.swaps_path, msgspec.json.encode(swap))
