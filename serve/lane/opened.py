"""A lane in service: its parts, put together."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from serve.counts import Counts
from serve.gateway import LaneService
from serve.intake import Naming
from serve.lane.parts import LaneParts, Services
from serve.metrics import ServeMetrics
from serve.referee import Referee
from serve.request.parts import Forward
from serve.routing.routings import routing_of
from serve.settings import GatewaySettings
from serve.student.follow import Follow, SwapRecord
from serve.student.slot import Slot, Slots
from serve.tasks.face import Face
from serve.tasks.tasks import TASKS
from serve.teacher.ask.tasks import asking_of, judge_of
from serve.teacher.audit import Audits, keyed_draw
from serve.teacher.budget import Budget
from serve.teacher.client import Teacher
from serve.teacher.faults import REASONS, FaultReason
from store.event import TaskInput, new_event_id
from store.money.tally import Tally
from store.tasks.tasks import TASKS as RULES

_OF_THE_TEACHER_ALONE = ("model", "address", "parameters")  # they stop no student: an alert says so


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLane:
    """A lane in service."""

    parts: LaneParts
    face: Face
    naming: Naming
    service: LaneService
    teacher: Teacher
    referee: Referee | None
    follow: Follow

    @property
    def unready(self) -> FaultReason | None:
        """What the teacher refuses, where that takes the lane out: a wrong key, or whatever leaves nobody to answer."""
        refused = self.teacher.refused
        cold = self.service.slots.current is None
        return refused if refused == "key" or (cold and refused in _OF_THE_TEACHER_ALONE) else None

    @property
    def why_not(self) -> str | None:
        """The same, for a person."""
        return None if self.unready is None else f"{self.parts.settings.lane}: {REASONS[self.unready]}"

    def stop_asking(self) -> None:
        """Send the teacher nothing any more, to answer or to judge."""
        self.teacher.stop_asking()
        if self.referee is not None:
            self.referee.teacher.stop_asking()

    async def close_teacher(self) -> None:
        """Let go of its connections."""
        await self.teacher.close()
        if self.referee is not None:
            await self.referee.teacher.close()

    @property
    def suspended(self) -> bool:
        """Whether answers are withheld from the teacher; who only spends a budget has no promise to suspend."""
        return self.service.budget.suspended and self.service.routing.promises

    def change(self, parts: LaneParts) -> None:
        """Take other keys, another budget and share of audits, from the next question on."""
        changed = parts.settings
        self.service.settings = changed
        self.service.budget.change(changed.budget, parts.ledger)
        self.service.routing.change(changed.budget, changed.audit_ratio)


def open_lane(
    parts: LaneParts,
    services: Services,
    settings: GatewaySettings,
    *,
    forward: Callable[[Slot], Forward],
    record: Callable[[SwapRecord], None],
) -> OpenLane:
    """Put a lane's parts together; nothing runs yet.

    Args:
        parts: of the lane.
        services: of the process.
        settings: of the gateway.
        forward: what runs the student of a slot.
        record: blocks; writes a swap down.
    """
    lane, metrics, slots = parts.settings, services.metrics, Slots()
    face, rules = TASKS[lane.task], RULES[lane.task](lane.terms)

    def new_id() -> str:
        return new_event_id(services.now(), services.rng)

    def tokens(value: TaskInput) -> int:
        return 1 if slots.current is None else slots.current.student.tokens(value)

    budget = Budget(
        lane.budget, parts.ledger, now=services.now, monotonic=monotonic, new_id=new_id, spent_path=parts.spent_path
    )
    teacher = Teacher(lane.teacher, asking_of(lane), monotonic=monotonic, client=parts.teacher_client)
    names = (lane.lane.tenant, lane.lane.use_case)
    metrics.dropped.labels(*names)  # from 0 on, or the first one is no rise
    metrics.swaps.labels(*names, "failed")
    counts = Counts(Tally(new_id, parts.tally_path))
    referee = _referee(parts, budget, counts, metrics)
    service = LaneService(
        lane,
        face=face,
        rules=rules,
        routing=routing_of(lane, budget, monotonic=monotonic),
        slots=slots,
        forward=forward,
        teacher=teacher,
        budget=budget,
        audits=Audits(size=lane.audit_queue, workers=lane.audit_workers),
        sink=services.sink,
        metrics=metrics,
        counts=counts,
        monotonic=monotonic,
        draw=keyed_draw(parts.audit_key),
        referee=referee,
        redact=lambda text: parts.redact(text)[0],
    )
    follow = Follow(
        lane.lane,
        slots,
        parts.versions,
        settings,
        sample=face.sample,
        metrics=metrics,
        record=record,
        now=services.now,
        monotonic=monotonic,
    )
    naming = Naming(matter=face, rules=rules, redact=parts.redact, lane_key=parts.lane_key, tokens=tokens)
    return OpenLane(
        parts=parts, face=face, naming=naming, service=service, teacher=teacher, referee=referee, follow=follow
    )


def _referee(parts: LaneParts, budget: Budget, counts: Counts, metrics: ServeMetrics) -> Referee | None:
    """Who judges the lane's audits, where rules do not tell and the lane wants it."""
    lane = parts.settings
    asking = judge_of(lane)
    if asking is None:
        return None
    names = (lane.lane.tenant, lane.lane.use_case)

    def paid(usd: float, bounded: bool) -> None:  # noqa: FBT001 - as `Referee` calls it
        counts.judged(usd, bounded=bounded)
        metrics.teacher_usd.labels(*names).inc(usd)

    return Referee(
        Teacher(lane.teacher, asking, monotonic=monotonic, client=parts.teacher_client),
        asking,
        budget,
        distance_limit=lane.terms.chat.distance_limit,
        paid=paid,
        judged=lambda kind: metrics.verdicts.labels(*names, kind).inc(),
    )
