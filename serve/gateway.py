"""The way of one question: student, decision, teacher or student, event, answer.

The student answers in milliseconds or the teacher is asked; a paid answer is published before it is sent, in a task of
its own, so that neither a client that hangs up nor a shutdown loses it.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, assert_never

from serve.counts import Counts, ServedBy
from serve.escalation import Answer, Degraded, Fault, Question, Refusal, Seen, build_event, student_answer
from serve.metrics import ServeMetrics
from serve.request.admission import OverloadedError, Shed, TeacherTurns
from serve.request.parts import EventSink, Forward, Plan, Teaches
from serve.request.refusals import not_paid, not_taught, overloaded
from serve.settings import LaneSettings
from serve.student.batcher import StudentBusyError, StudentFailedError
from serve.student.line import TooLong
from serve.student.slot import Opinion, Slots, on_list
from serve.teacher.audit import Audits
from serve.teacher.budget import Budget, Kind, Spend
from serve.teacher.client import Answered, Invalid, Reply, Unavailable
from store.errors import LogError
from store.event import LabelAnswer, Usage
from store.log.lazy import logger
from store.policy import BudgetView, Decision, decide, decide_by_budget, escalation_limit

_log: Final = logger(__name__)
_CUT_OFF_S: Final = 1.0  # for a call that was cut off to let go of what it holds
_SHOWN_CHARS: Final = 2_000  # of an answer that cannot be read


class LaneService:
    """One lane's student, teacher, budget and audits, and what happens between them."""

    def __init__(
        self,
        settings: LaneSettings,
        *,
        slots: Slots,
        batcher: Forward,
        teacher: Teaches,
        budget: Budget,
        audits: Audits,
        sink: EventSink,
        metrics: ServeMetrics,
        counts: Counts,
        monotonic: Callable[[], float],
        draw: Callable[[Question], float],
        plan: Plan | None = None,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        """Put the parts together; whoever made them starts and closes them. No `plan`: the lane keeps a promise.

        What a teacher says that cannot be read is logged (at debug level) only where `redact` is there.
        """
        self.settings = settings
        self.slots = slots
        self.budget = budget
        self.audits = audits
        self.teacher = teacher
        self.counts = counts
        self.turns = TeacherTurns(concurrency=settings.teacher.concurrency, timeout_s=settings.teacher.timeout_s)
        self._plan = plan
        self._draw = draw
        self._redact = redact
        self._batcher = batcher
        self._sink = sink
        self._metrics = metrics
        self._monotonic = monotonic
        self._labels = (settings.lane.tenant, settings.lane.use_case)
        self._paid: set[asyncio.Task[Answer | Refusal]] = set()

    async def answer(self, question: Question) -> Answer | Refusal:
        """Answer one question."""
        started_s = self._monotonic()
        try:
            seen = await self._ask_student(question)
        except StudentBusyError as error:
            self.count_shed("waited_in_vain")
            return overloaded(OverloadedError(error.wait_s, reason="waited_in_vain"))
        decision, spend = await self._decide(question, seen)
        found: Answer | Refusal
        if decision.route == "teacher" and spend is None:
            found = self._without_teacher(question, seen, decision, "teacher_busy", Usage())
        elif spend is not None and not decision.audit:
            found = await self._in_own_task(partial(self._escalate, question, seen, decision, spend))
        elif (opinion := seen.opinion) is None or decision.route == "nobody" or (question.forced and spend is None):
            found = not_paid(budget_known=not self.budget.silent)
        else:
            if spend is not None:
                self.audits.submit(partial(self._audit, question, seen, decision, spend))
            unknown = decision.withheld and self.budget.silent
            found = student_answer(
                opinion,
                seen,
                decision,
                event_id=question.event_id if spend else None,
                degraded="budget_unavailable" if unknown else None,
            )
        self._count(found, question, decision, self._monotonic() - started_s)
        return found

    async def try_teacher(self, question: Question) -> None:
        """Ask a question of our own, if the budget allows one, to see whether the teacher answers; nobody learns it."""
        bound_usd = self.teacher.cost_bound_usd(question.text)
        await self.budget.prepare("escalation", bound_usd)
        if self.budget.allows("escalation", bound_usd):
            await self._ask_teacher(question, self.budget.take("escalation", bound_usd))

    def count_shed(self, reason: Shed) -> None:
        """One request, or one text of it, was refused because the gateway is busy."""
        self._metrics.shed.labels(*self._labels, reason).inc()
        self.counts.shed()

    async def finish_paid(self, deadline_s: float) -> int:
        """Wait for the teacher calls of requests in flight; returns how many were cut off."""
        if not self._paid:
            return 0
        _, cut = await asyncio.wait(self._paid, timeout=deadline_s)
        for task in cut:
            task.cancel()
        if cut:
            await asyncio.wait(cut, timeout=_CUT_OFF_S)
        return len(cut)

    async def _ask_student(self, question: Question) -> Seen:
        """Pin the serving version for the length of the forward pass."""
        with self.slots.pinned() as slot:
            if slot is None:
                return Seen(version=None, policy=None, outcome=None)
            if question.forced and question.ticket is None:  # its line is long, and the answer needs no opinion
                return Seen(version=slot.version, policy=slot.student.policy, outcome=None)
            try:
                outcome = await self._batcher.ask(slot, question.redacted.text, question.ticket)
            except StudentFailedError:
                outcome = None
            except StudentBusyError:
                if not question.forced:
                    raise
                outcome = None
            if isinstance(outcome, Opinion):
                outcome = on_list(outcome, slot.student.labels, self.settings.labels)
            seen = Seen(version=slot.version, policy=slot.student.policy, outcome=outcome)
            if self._plan is None or not isinstance(outcome, Opinion):
                return seen
            look = self._plan.pace.see(outcome.probs, slot.version)
            outcome = replace(outcome, label=slot.student.labels[look.place], confidence=look.confidence)
            outcome = on_list(outcome, slot.student.labels, self.settings.labels)
            return replace(seen, outcome=outcome, uncertainty=look.uncertainty)

    async def _decide(self, question: Question, seen: Seen) -> tuple[Decision, Spend | None]:
        """Decide, and take what the decision spends in the same step: nothing where too many wait for the teacher.

        What this question would need is found first, by the same pure function with an open purse, so that a lease is
        fetched only for what will be spent; the draw is a function of the question, so both calls see the same one.
        """
        chosen = self._policy(question, seen)
        can_audit = self.audits.has_room and self.teacher.available
        wished = chosen(BudgetView(may_escalate=True, may_audit=can_audit))
        kind = _kind(wished)
        if kind is None:
            return chosen(
                BudgetView(may_escalate=True, may_audit=can_audit and not self.budget.exhausted("audit"))
            ), None
        if kind == "escalation" and wished.reason not in _PROMISED and self.teacher.available and self.turns.busy:
            return wished, None
        bound_usd = self.teacher.cost_bound_usd(question.text)
        await self.budget.prepare(kind, bound_usd)
        allowed = self.budget.allows(kind, bound_usd)
        may_audit = allowed and kind == "audit" and self.audits.has_room
        decision = chosen(BudgetView(may_escalate=allowed and kind == "escalation", may_audit=may_audit))
        return decision, self.budget.take(kind, bound_usd) if _kind(decision) else None

    def _policy(self, question: Question, seen: Seen) -> Callable[[BudgetView], Decision]:
        """The lane's policy for this question, as a function of what may be spent."""
        required: Literal["forced", "too_long"] | None = None
        if question.forced:
            required = "forced"
        elif isinstance(seen.outcome, TooLong):
            required = "too_long"
        draw, audit_ratio = self._draw(question), self.settings.audit_ratio
        if self._plan is None:
            return partial(decide, seen.policy, seen.view, audit_ratio=audit_ratio, draw=draw, required=required)
        allowance = self._plan.horizon.allowance()
        return partial(
            decide_by_budget,
            seen.uncertainty,
            escalation_limit(self._plan.pace.recent, allowance),
            cold=seen.version is None,
            outright=allowance.outright,
            audit_ratio=audit_ratio,
            draw=draw,
            required=required,
        )

    async def _escalate(
        self, question: Question, seen: Seen, decision: Decision, spend: Spend, wanted: Callable[[], bool]
    ) -> Answer | Refusal:
        """The teacher answers, or else the student, or else nobody."""
        reply = await self._ask_teacher(question, spend, wanted)
        match reply:
            case Answered(answer=answer):
                degraded = await self._publish(question, seen, decision, answer)
                return Answer(
                    label=answer.label,
                    probs=None,
                    num_classes=len(self.settings.labels),
                    served_by="teacher",
                    reason=decision.reason,
                    version=seen.version,
                    event_id=None if degraded else question.event_id,
                    propensity=decision.propensity,
                    degraded=degraded,
                    usage=answer.usage,
                )
            case Invalid(usage=usage):
                return self._without_teacher(question, seen, decision, "invalid_answer", usage)
            case Unavailable():
                return self._without_teacher(question, seen, decision, "teacher_down", Usage())
            case _:
                assert_never(reply)

    def _without_teacher(
        self, question: Question, seen: Seen, decision: Decision, why: Fault, usage: Usage
    ) -> Answer | Refusal:
        """The student's answer, or none: who forces the teacher wants no other."""
        if (opinion := seen.opinion) is not None and not question.forced:
            return student_answer(opinion, seen, decision, degraded=why, usage=usage)
        if why == "teacher_busy":
            self.count_shed("teacher_turns")
        return not_taught(why, self.turns.wait_s)

    async def _audit(self, question: Question, seen: Seen, decision: Decision, spend: Spend) -> None:
        reply = await self._ask_teacher(question, spend)
        lost = "lost" if not isinstance(reply, Answered) else None
        if isinstance(reply, Answered):
            lost = "lost" if await self._publish(question, seen, decision, reply.answer) else None
        self._metrics.audits.labels(*self._labels, lost or "published").inc()

    async def _ask_teacher(self, question: Question, spend: Spend, wanted: Callable[[], bool] = lambda: True) -> Reply:
        """Ask, and settle what it cost. A call that is cancelled midway counts in full: it may have been billed."""
        self.turns.asked += 1
        try:
            reply = await self.teacher.ask(question.text, wanted)
        except BaseException:
            self._pay(spend, self.teacher.cost_bound_usd(question.text), bounded=True)
            raise
        finally:
            self.turns.asked -= 1
        calls = self._metrics.teacher_calls
        match reply:
            case Answered(answer=answer):
                self._pay(spend, answer.cost_usd, bounded=not answer.usage.prompt_tokens)
                self.turns.took(answer.latency_ms / 1000)
                self._metrics.teacher_usd.labels(*self._labels).inc(answer.cost_usd)
                self._metrics.teacher_seconds.labels(*self._labels).observe(answer.latency_ms / 1000)
                calls.labels(*self._labels, "answered").inc()
            case Invalid(cost_usd=cost_usd):
                self._pay(spend, cost_usd, bounded=not reply.usage.prompt_tokens)
                self._metrics.teacher_usd.labels(*self._labels).inc(cost_usd)
                calls.labels(*self._labels, "invalid").inc()
                self._metrics.invalid_answers.labels(*self._labels, reply.kind).inc()
                self._tell_invalid(reply, question.event_id)
            case Unavailable(billed=billed):
                if billed:
                    self._pay(spend, self.teacher.cost_bound_usd(question.text), bounded=True)
                else:
                    self.budget.settle(spend, None)
                calls.labels(*self._labels, "unavailable").inc()
            case _:
                assert_never(reply)
        if not isinstance(reply, Unavailable):
            self.counts.heard(readable=isinstance(reply, Answered))
        return reply

    def _pay(self, spend: Spend, usd: float, *, bounded: bool) -> None:
        """Settle a call, and count it; `bounded`: nobody said what it cost, and this is the most it can have."""
        self.budget.settle(spend, usd)
        self.counts.paid(usd, audit=spend.lease.kind == "audit", bounded=bounded)

    def _tell_invalid(self, reply: Invalid, event_id: str) -> None:
        """Log what is wrong with an answer; the answer itself at debug level, redacted."""
        about = {"lane": str(self.settings.lane), "event_id": event_id, "kind": reply.kind}
        _log.warning("invalid answer", detail=reply.detail, **about)
        if self._redact is not None and logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
            _log.debug("what the teacher said", said=self._redact(reply.said[:_SHOWN_CHARS]), **about)

    async def _publish(
        self, question: Question, seen: Seen, decision: Decision, answer: LabelAnswer
    ) -> Degraded | None:
        """Wait until the event is accepted; a paid answer goes out even when it is not."""
        event = build_event(
            self.settings.lane, question, seen, decision, answer, eligible=self.settings.training_permitted
        )
        try:
            await self._sink.publish(event, question.item_id, traceparent=question.traceparent)
        except LogError as error:
            self._metrics.dropped.labels(*self._labels).inc()
            _log.error("escalation dropped", lane=str(self.settings.lane), event_id=event.id, error=str(error))
            return "escalation_dropped"
        return None

    async def _in_own_task(
        self, work: Callable[[Callable[[], bool]], Coroutine[Any, Any, Answer | Refusal]]
    ) -> Answer | Refusal:
        """Run `work` so that cancelling the request does not cancel it; `finish_paid` waits for it.

        It is told whether somebody still waits: a call that has not been sent need not be.
        """
        left = asyncio.Event()
        task = asyncio.create_task(work(lambda: not left.is_set()))
        self._paid.add(task)
        task.add_done_callback(self._paid.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            left.set()
            raise

    def _count(self, found: Answer | Refusal, question: Question, decision: Decision, seconds: float) -> None:
        reason = decision.reason or "trusted"
        served_by: ServedBy = found.served_by if isinstance(found, Answer) else "nobody"
        degraded = (found.degraded or "no") if isinstance(found, Answer) else found.code
        self._metrics.answers.labels(*self._labels, served_by, reason, degraded).inc()
        self._metrics.request_seconds.labels(*self._labels, served_by).observe(seconds)
        self.counts.add(
            now_s=self._monotonic(),
            served_by=served_by,
            withheld=decision.withheld and served_by != "nobody",
            chars=len(question.text),
            code="" if isinstance(found, Answer) else found.code,
        )


_PROMISED: Final = frozenset({"cold", "forced"})  # admitted as texts that only the teacher can answer


def _kind(decision: Decision) -> Kind | None:
    """What a decision spends."""
    if decision.route == "teacher":
        return "escalation"
    return "audit" if decision.audit else None
