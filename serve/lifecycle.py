"""The gateway as a whole: what ops must bring, how its parts start, and how they stop without losing a paid answer."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

import msgspec
import openai

from serve.counts import Counts
from serve.escalation import Question
from serve.front.kept import Shared
from serve.gateway import LaneService
from serve.intake import Intake
from serve.metrics import ServeMetrics
from serve.pace import Pace
from serve.request.admission import Admission, OverloadedError, StudentLine
from serve.request.parts import EventSink, Plan
from serve.settings import GatewaySettings, LaneSettings
from serve.student.batcher import Batcher
from serve.student.follow import Follow, SwapRecord, Versions
from serve.student.line import Ticket
from serve.student.slot import Slots
from serve.teacher.audit import Audits, keyed_draw
from serve.teacher.budget import Budget, Ledger
from serve.teacher.client import Teacher
from serve.teacher.faults import REASONS, Reason
from serve.teacher.horizon import DayHorizon
from store.control import Heartbeat
from store.errors import StoreUnavailableError
from store.event import Lane, TextInput, new_event_id, wall_clock_s
from store.log.lazy import logger
from store.money.tally import Tally, Write
from store.registry.durable import append_line

_log: Final = logger(__name__)
_PULSE_S: Final = 1.0
_SILENT_S: Final = 15.0
_LAST_CALL_RATIO: Final = 1 / 3  # of the grace: until then audits that wait are still sent; the rest is for answers
_OF_THE_TEACHER_ALONE: Final = ("model", "address", "parameters")  # they stop no student: an alert says so
_PROBE_TEXT: Final = "This is a test question."
_HUNG_S: Final = 60.0  # in a forward pass; only a restart ends it


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneParts:
    """What ops brings for one lane."""

    settings: LaneSettings
    lane_key: bytes = field(repr=False)  # of its item ids
    redact: Callable[[str], str]  # with the lane's key
    subject_key: bytes = field(repr=False)  # of the tokens that stand for `user`
    audit_key: bytes = field(repr=False)  # of the draw of audits
    versions: Versions
    ledger: Ledger
    answers: Shared | None = None  # under Idempotency-Keys, for all replicas; None: each replica knows its own
    teacher_client: openai.AsyncOpenAI | None = None  # instead of one made from the settings
    spent_path: Path | None = None  # where the replica keeps what it spent of the budget, should Redis forget it
    tally_path: Path | None = None  # where it keeps what it has done while Redis does not take it


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What ops brings for the process."""

    lanes: Sequence[LaneParts]
    sink: EventSink
    announce: Callable[[Lane, Heartbeat], None]  # blocks; StoreUnavailableError while Redis does not answer
    swaps_path: Path  # swaps.jsonl
    metrics: ServeMetrics
    rng: Random  # event ids, and ids of leases and writers
    write: Write = field(default=lambda _lane, _batch: None)  # into the books
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
        self.intake = Intake()
        metrics = services.metrics
        self._batcher = Batcher(
            max_batch=settings.max_batch,
            wait_s=settings.batch_wait_s,
            timeout_s=settings.student_timeout_s,
            observe=metrics.observe_forward,
        )
        self.admission = Admission(
            line=StudentLine(reader=self._batcher, max_batch=settings.max_batch, wait_s=settings.student_wait_s),
            max_in_flight=settings.max_in_flight,
        )
        self._redis_answers = True
        self.lanes = [self._open(parts) for parts in services.lanes]
        self._loops: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pulse_s = monotonic()

    def healthy(self) -> bool:
        """Whether the loops tick; depends on neither log nor Redis. May be called from any thread."""
        return (
            monotonic() - self._pulse_s < _SILENT_S
            and self._batcher.alive()
            and self._batcher.hangs_s < _HUNG_S
            and not any(loop.done() for loop in self._loops)
        )

    def ready(self) -> bool:
        """Whether every lane has restored its champion (or has none) and is set up. May be called from any thread."""
        return all(lane.follow.settled and _unready(lane) is None for lane in self.lanes)

    def why_not(self) -> str:
        """What is not set up right, for whoever asks why this is not ready. May be called from any thread."""
        faults = [(lane.parts.settings.lane, _unready(lane)) for lane in self.lanes]
        return "; ".join(f"{lane}: {REASONS[reason]}" for lane, reason in faults if reason is not None)

    def degraded(self) -> list[str]:
        """What answers go on without: a lane's dependencies, by name. May be called from any thread.

        It makes no replica unready: all share these, so a load balancer would be left with none.
        """
        return [
            f"{name} of {lane.parts.settings.lane}"
            for lane in self.lanes
            for name, missing in self._missing(lane).items()
            if missing
        ]

    @contextmanager
    def admit(self, lane: OpenLane, texts: int, *, forced: bool) -> Iterator[Ticket | None]:
        """Hold a request's place until it is answered; yields its ticket for the student.

        Raises:
            OverloadedError: it would wait for too long; it is counted.
        """
        service, slot = lane.service, lane.service.slots.current
        if slot is not None:
            self._batcher.expect(slot.text_s)
        with ExitStack() as place:
            try:
                ticket = place.enter_context(
                    self.admission.admit(texts, service.turns, student=slot is not None, teacher=forced)
                )
            except OverloadedError as error:
                service.count_shed(error.reason)
                raise
            yield ticket

    async def start(self) -> None:
        """Start the parts on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._batcher.start()
        await self.services.sink.start()
        for lane in self.lanes:
            lane.service.audits.start()
            self._loops.append(asyncio.create_task(lane.follow.run(), name=f"follow {lane.parts.settings.lane}"))
            self._loops.append(asyncio.create_task(self._try_teacher(lane), name=f"teacher {lane.parts.settings.lane}"))
        self._loops.append(asyncio.create_task(self._pulse(), name="pulse"))
        self._loops.append(asyncio.create_task(self._beat(), name="heartbeat"))

    def on_loop(self, call: Callable[[], None], *, after_s: float = 0.0) -> None:
        """Call something on the gateway's loop, which alone may touch its parts. May be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.call_later, after_s, call)

    def stop_asking(self) -> None:
        """Send no teacher anything any more: an answer would come too late for whoever waits, and has to be paid."""
        for lane in self.lanes:
            lane.service.teacher.stop_asking()

    def change(self, lanes: Sequence[OpenLane]) -> None:
        """The same lanes with other keys, budgets and shares of audits, from the next question on. On the loop."""
        for lane in lanes:
            changed = lane.parts.settings
            lane.service.settings = changed
            lane.service.budget.change(changed.budget, lane.parts.ledger)
            if lane.horizon is not None:
                lane.horizon.change(changed.budget, changed.audit_ratio)
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
                await self._write_books(lane)
            lane.service.counts.tally.keep()
            await lane.service.budget.close()
            await lane.service.teacher.close()
        self.intake.close()
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
        metrics = services.metrics
        names = (settings.lane.tenant, settings.lane.use_case)
        metrics.dropped.labels(*names)  # from 0 on, or the first one is no rise
        metrics.swaps.labels(*names, "failed")
        service = LaneService(
            settings,
            slots=slots,
            batcher=self._batcher,
            teacher=teacher,
            budget=budget,
            audits=Audits(size=settings.audit_queue, workers=settings.audit_workers),
            sink=services.sink,
            metrics=metrics,
            counts=Counts(Tally(lambda: new_event_id(services.now(), services.rng), parts.tally_path)),
            monotonic=monotonic,
            draw=keyed_draw(parts.audit_key),
            plan=None if horizon is None else Plan(pace=Pace(settings.metric), horizon=horizon),
            redact=parts.redact,
        )
        follow = Follow(
            settings.lane,
            slots,
            parts.versions,
            self.settings,
            metrics=metrics,
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
        """Say what serves, to Redis and to Prometheus; while Redis is down, to Prometheus alone."""
        while True:
            await asyncio.gather(*map(self._beat_lane, self.lanes))
            await asyncio.sleep(self.settings.follow_s)

    async def _beat_lane(self, lane: OpenLane) -> None:
        """One that waits for a Redis that hangs does not keep the others."""
        self._tell(lane)  # what is known already: it may be long until Redis has answered
        try:
            await lane.service.budget.tick()
            if lane.horizon is not None:
                lane.horizon.ledger_answered()
            await asyncio.to_thread(self.services.announce, lane.parts.settings.lane, self._heartbeat(lane))
            await self._write_books(lane)
            self._redis_answers = True
        except StoreUnavailableError as error:
            self._redis_answers = False
            lane.service.counts.tally.keep()
            _log.warning("no heartbeat while Redis does not answer", error=str(error))
        self._tell(lane)

    async def _write_books(self, lane: OpenLane) -> None:
        """Write down what was done since the last time."""
        tally = lane.service.counts.tally
        while (batch := tally.next_batch()) is not None:
            await asyncio.to_thread(self.services.write, lane.parts.settings.lane, batch)
            tally.written()
        tally.keep()

    def _heartbeat(self, lane: OpenLane) -> Heartbeat:
        service = lane.service
        return service.counts.heartbeat(
            version=service.slots.version,
            at_s=self.services.now(),
            now_s=monotonic(),
            used_calls=service.budget.used_calls,
            limit_calls=lane.parts.settings.budget.calls_per_day,
            suspended=_suspended(lane),
        )

    def _tell(self, lane: OpenLane) -> None:
        """Set the gauges."""
        service, settings, metrics = lane.service, lane.parts.settings, self.services.metrics
        labels = (settings.lane.tenant, settings.lane.use_case)
        metrics.budget_used.labels(*labels).set(service.budget.used_calls)
        metrics.budget_limit.labels(*labels).set(settings.budget.calls_per_day)
        metrics.suspended.labels(*labels).set(_suspended(lane))
        metrics.audits_waiting.labels(*labels).set(service.audits.waiting)
        metrics.teacher_waiting.labels(*labels).set(max(0, service.turns.asked - service.turns.concurrency))
        for name, missing in self._missing(lane).items():
            metrics.degraded.labels(*labels, name).set(missing)
        metrics.line_texts.set(self.admission.line.texts)
        metrics.line_seconds.set(self.admission.line.wait_of_s(1))
        metrics.hung_seconds.set(self._batcher.hangs_s)

    def _missing(self, lane: OpenLane) -> dict[str, bool]:
        """Which dependencies of a lane do not answer now."""
        return {
            "redis": lane.service.budget.silent or not self._redis_answers,
            "log": not self.services.sink.healthy,
            "teacher": not lane.service.teacher.available,
        }

    def _record(self, swap: SwapRecord) -> None:
        """Append one line to swaps.jsonl."""
        append_line(self.services.swaps_path, msgspec.json.encode(swap))


def _unready(lane: OpenLane) -> Reason | None:
    """What the teacher refuses, where that takes the lane out: a wrong key, or whatever leaves nobody to answer."""
    refused = lane.teacher.refused
    cold = lane.service.slots.current is None
    return refused if refused == "key" or (cold and refused in _OF_THE_TEACHER_ALONE) else None


def _suspended(lane: OpenLane) -> bool:
    """Whether answers are withheld from the teacher; who only spends a budget has no promise to suspend."""
    return lane.service.budget.suspended and lane.horizon is None


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
