"""The gateway as a whole: what ops must bring, how its parts start, and how they stop without losing a paid answer."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

import msgspec
import openai
import structlog

from serve.counts import Counts
from serve.escalation import Question
from serve.gateway import EventSink, LaneService, Plan
from serve.metrics import ServeMetrics
from serve.pace import Pace
from serve.settings import GatewaySettings, LaneSettings
from serve.student.batcher import Batcher
from serve.student.follow import Follow, SwapRecord, Versions
from serve.student.slot import Slots
from serve.teacher.audit import Audits
from serve.teacher.budget import Budget, Ledger
from serve.teacher.client import Teacher
from serve.teacher.faults import REASONS
from serve.teacher.horizon import DayHorizon
from store.control import Heartbeat
from store.errors import StoreUnavailableError
from store.event import Lane, TextInput, new_event_id, wall_clock_s

_log: Final = structlog.get_logger(__name__)
_PULSE_S: Final = 1.0
_SILENT_S: Final = 15.0
_NO_FAULT: Final = (None, "quota")  # an empty account stops every replica's teacher and no student: an alert says so
_PROBE_TEXT: Final = "This is a test question."


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneParts:
    """What ops brings for one lane."""

    settings: LaneSettings
    lane_key: bytes = field(repr=False)  # of its item ids
    redact: Callable[[str], str]  # with the lane's key
    versions: Versions
    ledger: Ledger
    teacher_client: openai.AsyncOpenAI | None = None  # instead of one made from the settings
    spent_path: Path | None = None  # where the replica keeps what it spent of the budget, should Redis forget it


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What ops brings for the process."""

    lanes: Sequence[LaneParts]
    sink: EventSink
    announce: Callable[[Lane, Heartbeat], None]  # blocks; StoreUnavailableError while Redis does not answer
    swaps_path: Path  # swaps.jsonl
    metrics: ServeMetrics
    rng: Random  # event ids and lease ids
    now: Callable[[], float] = wall_clock_s


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLane:
    """A lane in service."""

    parts: LaneParts
    service: LaneService
    teacher: Teacher
    follow: Follow
    horizon: DayHorizon | None  # None: the lane keeps a promise


class Gateway:
    """Every lane's parts, put together."""

    def __init__(self, services: Services, settings: GatewaySettings) -> None:
        """Put the parts together; nothing runs before `start`."""
        self.settings = settings
        self.services = services
        self.in_flight = 0
        metrics = services.metrics
        self._batcher = Batcher(
            max_batch=settings.max_batch,
            wait_s=settings.batch_wait_s,
            timeout_s=settings.student_timeout_s,
            observe=metrics.observe_forward,
        )
        self.lanes = [self._open(parts) for parts in services.lanes]
        self._loops: list[asyncio.Task[None]] = []
        self._pulse_s = monotonic()

    def healthy(self) -> bool:
        """Whether the loops tick; depends on neither log nor Redis. May be called from any thread."""
        return (
            monotonic() - self._pulse_s < _SILENT_S
            and self._batcher.alive()
            and not any(loop.done() for loop in self._loops)
        )

    def ready(self) -> bool:
        """Whether every lane has restored its champion (or has none) and is set up. May be called from any thread."""
        return all(lane.follow.settled and lane.teacher.refused in _NO_FAULT for lane in self.lanes)

    def why_not(self) -> str:
        """What is not set up right, for whoever asks why this is not ready. May be called from any thread."""
        faults = [(lane.parts.settings.lane, lane.teacher.refused) for lane in self.lanes]
        return "; ".join(f"{lane}: {REASONS[reason]}" for lane, reason in faults if reason is not None)

    async def start(self) -> None:
        """Start the parts on the running loop."""
        self._batcher.start()
        await self.services.sink.start()
        for lane in self.lanes:
            lane.service.audits.start()
            self._loops.append(asyncio.create_task(lane.follow.run(), name=f"follow {lane.parts.settings.lane}"))
            self._loops.append(asyncio.create_task(self._try_teacher(lane), name=f"teacher {lane.parts.settings.lane}"))
        self._loops.append(asyncio.create_task(self._pulse(), name="pulse"))
        self._loops.append(asyncio.create_task(self._beat(), name="heartbeat"))

    async def stop(self) -> None:
        """Wait for paid answers and audits within the grace, then close what they needed, in that order."""
        deadline_s = monotonic() + self.settings.grace_s
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
            await lane.service.budget.close()
            await lane.service.teacher.close()
        await asyncio.to_thread(self._batcher.close)

    def _open(self, parts: LaneParts) -> OpenLane:
        settings, services = parts.settings, self.services
        slots = Slots()
        budget = Budget(
            settings.budget,
            parts.ledger,
            now=services.now,
            monotonic=monotonic,
            new_id=lambda: new_event_id(services.now(), services.rng),
            spent_path=parts.spent_path,
        )
        teacher = Teacher(settings.teacher, settings.labels, monotonic=monotonic, client=parts.teacher_client)
        horizon = _horizon(settings, budget)
        service = LaneService(
            settings,
            slots=slots,
            batcher=self._batcher,
            teacher=teacher,
            budget=budget,
            audits=Audits(size=settings.audit_queue, workers=settings.audit_workers),
            sink=services.sink,
            metrics=services.metrics,
            counts=Counts(),
            monotonic=monotonic,
            plan=None if horizon is None else Plan(pace=Pace(settings.metric), horizon=horizon),
        )
        follow = Follow(
            settings.lane,
            slots,
            parts.versions,
            self.settings,
            metrics=services.metrics,
            record=self._record,
            now=services.now,
            monotonic=monotonic,
        )
        return OpenLane(parts=parts, service=service, teacher=teacher, follow=follow, horizon=horizon)

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
                await lane.service.try_teacher(self._question_of_our_own())
            await asyncio.sleep(self.settings.follow_s)

    def _question_of_our_own(self) -> Question:
        now_s = self.services.now()
        return Question(
            text=_PROBE_TEXT,
            redacted=TextInput(text=_PROBE_TEXT),
            item_id="",
            event_id=new_event_id(now_s, self.services.rng),
            at_s=now_s,
            subject=None,
            forced=True,
        )

    async def _beat(self) -> None:
        """Say what serves; while Redis is down, say nothing and go on."""
        while True:
            for lane in self.lanes:
                try:
                    await self._beat_once(lane)
                except StoreUnavailableError as error:
                    _log.warning("no heartbeat while Redis does not answer", error=str(error))
            await asyncio.sleep(self.settings.follow_s)

    async def _beat_once(self, lane: OpenLane) -> None:
        service, settings, metrics = lane.service, lane.parts.settings, self.services.metrics
        await service.budget.tick()
        if lane.horizon is not None:
            lane.horizon.ledger_answered()
        suspended = service.budget.binds and lane.horizon is None  # who only spends a budget has nothing to suspend
        labels = (settings.lane.tenant, settings.lane.use_case)
        limit = settings.budget.calls_per_day
        metrics.budget_used.labels(*labels).set(service.budget.used_calls)
        metrics.budget_limit.labels(*labels).set(limit)
        metrics.suspended.labels(*labels).set(suspended)
        metrics.audits_waiting.labels(*labels).set(service.audits.waiting)
        heartbeat = service.counts.heartbeat(
            version=service.slots.version,
            at_s=self.services.now(),
            now_s=monotonic(),
            used_calls=service.budget.used_calls,
            limit_calls=limit,
            suspended=suspended,
        )
        await asyncio.to_thread(self.services.announce, settings.lane, heartbeat)

    def _record(self, swap: SwapRecord) -> None:
        """Append one line to swaps.jsonl."""
        with self.services.swaps_path.open("ab") as file:
            file.write(msgspec.json.encode(swap) + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _horizon(settings: LaneSettings, budget: Budget) -> DayHorizon | None:
    """What a lane that only has a budget plans with."""
    if settings.policy != "budget":
        return None
    return DayHorizon(
        settings.budget,
        budget,
        audit_ratio=settings.audit_ratio,
        rows_per_day=settings.rows_per_day,
        monotonic=monotonic,
    )
