"""The way of one question: student, decision, teacher or student, event, answer.

The student answers in milliseconds or the teacher is asked; a paid answer is published before it is sent, in a task of
its own, so that neither a client that hangs up nor a shutdown loses it.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from math import ceil
from typing import Any, Final, assert_never

import msgspec

from serve.counts import CountedAs, Counts
from serve.escalation import Answer, Common, Degraded, Question, Refusal, Seen, TeacherFault, build_event, of_student
from serve.metrics import ServeMetrics
from serve.referee import Referee
from serve.request.admission import OverloadedError, Shed, TeacherTurns
from serve.request.parts import EventSink, Forward, Teaches
from serve.request.refusals import not_paid, not_taught, overloaded
from serve.routing.routing import Choice, Required, Routing
from serve.settings import LaneSettings
from serve.student.executor import StudentBusyError, StudentFailedError
from serve.student.line import StudentReply, TooLong
from serve.student.slot import Slot, Slots
from serve.tasks.face import Face, Kept
from serve.teacher.audit import Audits
from serve.teacher.budget import Budget, Spend
from serve.teacher.client import Answered, Invalid, Reply, Unavailable
from serve.teacher.ledger import CallKind
from store.errors import LogError, TooLaboriousError
from store.event import TeacherAnswer, Usage
from store.log.lazy import logger
from store.policy import BudgetView, Decision
from store.redact import restore
from store.student.loaded import Compares, Opinion
from store.tasks.rules import Dispute, TaskRules

_log: Final = logger(__name__)
_CUT_OFF_S: Final = 1.0  # for a call that was cut off to let go of what it holds
_SHOWN_CHARS: Final = 2_000  # of an answer that cannot be read


class LaneService:
    """One lane's student, teacher, budget and audits, and what happens between them."""

    def __init__(
        self,
        settings: LaneSettings,
        *,
        face: Face,
        rules: TaskRules,
        routing: Routing,
        slots: Slots,
        forward: Callable[[Slot], Forward],
        teacher: Teaches,
        budget: Budget,
        audits: Audits,
        sink: EventSink,
        metrics: ServeMetrics,
        counts: Counts,
        monotonic: Callable[[], float],
        draw: Callable[[Question], float],
        redact: Callable[[str], str],
        referee: Referee | None = None,
    ) -> None:
        """Put the parts together; whoever made them starts and closes them.

        Without a `referee`, audits of texts say what rules tell.
        """
        self.settings = settings
        self.face = face
        self.routing = routing
        self.slots = slots
        self.budget = budget
        self.audits = audits
        self.teacher = teacher
        self.counts = counts
        self.turns = TeacherTurns(concurrency=settings.teacher.concurrency, timeout_s=settings.teacher.timeout_s)
        self._rules = rules
        self._heed = face.heed(settings)
        self._draw = draw
        self._referee = referee
        self._redact = redact
        self._forward = forward
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
            said = of_student(
                seen,
                decision,
                event_id=question.event_id if spend else None,
                degraded="budget_unavailable" if unknown else None,
            )
            found = self.face.of_student(opinion, said, question.noted)
        self._count(found, question, decision, self._monotonic() - started_s)
        return found

    async def try_teacher(self, question: Question) -> None:
        """Ask a question of our own, if the budget allows one, to see whether the teacher answers; nobody learns it."""
        bound_usd = self.teacher.cost_bound_usd(question.value)
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
            outcome: StudentReply | None = None
            if not question.forced or question.ticket is not None:  # else its line is long, and no opinion is needed
                outcome = await self._look(slot, question)
            if isinstance(outcome, Opinion) and (outcome := self._heed(outcome, question.value)) is not None:
                self.routing.see(outcome, slot.version)
            return Seen(version=slot.version, policy=slot.student.policy, outcome=outcome)

    async def _look(self, slot: Slot, question: Question) -> StudentReply | None:
        """What the student makes of a question; None where it fails, or the teacher is forced and it is busy.

        What is longer than a turn is read portion by portion, so that it does not hold up what comes after it.
        """
        forward = self._forward(slot)
        count = ceil(question.tokens / forward.turn)
        portions = self.face.portions(question.redacted, count) if count > 1 else ()
        each = question.tokens // (len(portions) + 1) or 1
        try:
            for portion in portions:
                if isinstance(await forward.ask(slot, portion, question.ticket, tokens=each), TooLong):
                    return TooLong()
            return await forward.ask(slot, question.redacted, question.ticket, tokens=each)
        except StudentFailedError:
            return None
        except StudentBusyError:
            if not question.forced:
                raise
            return None

    async def _decide(self, question: Question, seen: Seen) -> tuple[Decision, Spend | None]:
        """Decide, and take what the decision spends in the same step: nothing where too many wait for the teacher.

        What this question would need is found first, by the same pure function with an open purse, so that a lease is
        fetched only for what will be spent; the draw is a function of the question, so both calls see the same one.
        """
        chosen = self._choice(question, seen)
        can_audit = self.audits.has_room and self.teacher.available
        wished = chosen(BudgetView(may_escalate=True, may_audit=can_audit))
        kind = _kind(wished)
        if kind is None:
            return chosen(
                BudgetView(may_escalate=True, may_audit=can_audit and not self.budget.exhausted("audit"))
            ), None
        if kind == "escalation" and wished.reason not in _PROMISED and self.teacher.available and self.turns.busy:
            return wished, None
        bound_usd = self.teacher.cost_bound_usd(question.value)
        await self.budget.prepare(kind, bound_usd)
        allowed = self.budget.allows(kind, bound_usd)
        may_audit = allowed and kind == "audit" and self.audits.has_room
        decision = chosen(BudgetView(may_escalate=allowed and kind == "escalation", may_audit=may_audit))
        return decision, self.budget.take(kind, bound_usd) if _kind(decision) else None

    def _choice(self, question: Question, seen: Seen) -> Choice:
        """The lane's policy for this question, as a function of what may be spent."""
        required: Required | None = None
        if question.forced:
            required = "forced"
        elif question.unsupported:
            required = "unsupported"
        elif isinstance(seen.outcome, TooLong):
            required = "too_long"
        return self.routing.choose(
            seen.policy,
            seen.opinion,
            cold=seen.version is None,
            audit_ratio=self.settings.audit_ratio,
            draw=self._draw(question),
            required=required,
        )

    async def _escalate(
        self, question: Question, seen: Seen, decision: Decision, spend: Spend, wanted: Callable[[], bool]
    ) -> Answer | Refusal:
        """The teacher answers, or else the student, or else nobody."""
        reply = await self._ask_teacher(question, spend, wanted, question.hear)
        match reply:
            case Answered(answer=answer):
                degraded = await self._publish(question, seen, decision, answer)
                said = Common(
                    served_by="teacher",
                    reason=decision.reason,
                    version=seen.version,
                    event_id=None if degraded else question.event_id,
                    propensity=decision.propensity,
                    withheld=False,
                    degraded=degraded,
                    usage=answer.usage,
                )
                return self.face.of_teacher(answer, question.value, self.settings, said)
            case Invalid(usage=usage):
                return self._without_teacher(question, seen, decision, "invalid_answer", usage)
            case Unavailable():
                return self._without_teacher(question, seen, decision, "teacher_down", Usage())
            case _:
                assert_never(reply)

    def _without_teacher(
        self, question: Question, seen: Seen, decision: Decision, why: TeacherFault, usage: Usage
    ) -> Answer | Refusal:
        """The student's answer, or none: who forces the teacher wants no other."""
        if (opinion := seen.opinion) is not None and not question.forced:
            said = of_student(seen, decision, degraded=why, usage=usage)
            return self.face.of_student(opinion, said, question.noted)
        if why == "teacher_busy":
            self.count_shed("teacher_turns")
        return not_taught(why, self.turns.wait_s)

    async def _audit(self, question: Question, seen: Seen, decision: Decision, spend: Spend) -> None:
        reply = await self._ask_teacher(question, spend)
        lost = "lost" if not isinstance(reply, Answered) else None
        if isinstance(reply, Answered):
            lost = "lost" if await self._publish(question, seen, decision, reply.answer, audit=True) else None
        self._metrics.audits.labels(*self._labels, lost or "published").inc()

    async def _ask_teacher(
        self,
        question: Question,
        spend: Spend,
        wanted: Callable[[], bool] = lambda: True,
        hear: Callable[[bytes], None] | None = None,
    ) -> Reply:
        """Ask, and settle what it cost. A call that is cancelled midway counts in full: it may have been billed."""
        self.turns.asked += 1
        try:
            reply = await self.teacher.ask(question.value, wanted, hear)
        except BaseException:
            self._pay(spend, self.teacher.cost_bound_usd(question.value), bounded=True)
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
                    self._pay(spend, self.teacher.cost_bound_usd(question.value), bounded=True)
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
        if logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
            _log.debug("what the teacher said", said=self._redact(reply.said[:_SHOWN_CHARS]), **about)

    async def _publish(
        self, question: Question, seen: Seen, decision: Decision, answer: TeacherAnswer, *, audit: bool = False
    ) -> Degraded | None:
        """Wait until the event is accepted; a paid answer goes out even when it is not.

        An audit is judged before: nobody waits for it. A client waits for the event of an escalation, whose answers a
        cycle has judged where it needs to know.
        """
        kept = await self._kept(question, answer)
        event = build_event(
            self.face.event_type,
            self.settings.lane,
            question,
            seen,
            decision,
            kept.answer,
            eligible=kept.learnable and self.settings.training_permitted,
        )
        if audit and self._referee is not None and (dispute := self._rules.disputed(event)) is not None:
            event = await self._judged(self._referee, event, question, dispute)
        try:
            await self._sink.publish(event, question.item_id, traceparent=question.traceparent)
        except LogError as error:
            self._metrics.dropped.labels(*self._labels).inc()
            _log.error("escalation dropped", lane=str(self.settings.lane), event_id=event.id, error=str(error))
            return "escalation_dropped"
        return None

    async def _kept(self, question: Question, answer: TeacherAnswer) -> Kept:
        """What the event keeps of an answer, redacted; nobody learns from a text that would take too long to redact."""
        kept, laborious = self.face.kept(question.value, answer), list[str]()

        def redacted(text: str) -> str:
            try:
                return self._redact(text)
            except TooLaboriousError as error:
                laborious.append(str(error))
                return ""

        private = await asyncio.to_thread(self._rules.private, kept.answer, redacted)
        return Kept(answer=private, learnable=kept.learnable and not laborious)

    async def _judged(self, referee: Referee, event: Any, question: Question, dispute: Dispute) -> Any:
        """The event with the referee's verdict, if there is one. Personal data stands in both answers as it was."""
        dispute = Dispute(*(restore(text, question.noted) for text in dispute))
        distance = None
        with self.slots.pinned() as slot:
            if slot is not None and isinstance(slot.student, Compares):
                distance = await asyncio.to_thread(slot.student.distance, *dispute)
        verdict = await referee.verdict(question.value, dispute, distance)
        return msgspec.structs.replace(event, student=msgspec.structs.replace(event.student, verdict=verdict))

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
        served_by: CountedAs = found.served_by if isinstance(found, Answer) else "nobody"
        degraded = (found.degraded or "no") if isinstance(found, Answer) else found.code
        self._metrics.answers.labels(*self._labels, served_by, reason, degraded).inc()
        self._metrics.request_seconds.labels(*self._labels, served_by).observe(seconds)
        self.counts.add(
            now_s=self._monotonic(),
            served_by=served_by,
            withheld=decision.withheld and served_by != "nobody",
            chars=sum(map(len, self._rules.texts(question.value))),
            code="" if isinstance(found, Answer) else found.code,
        )


_PROMISED: Final = frozenset({"cold", "forced"})  # admitted as texts that only the teacher can answer


def _kind(decision: Decision) -> CallKind | None:
    """What a decision spends."""
    if decision.route == "teacher":
        return "escalation"
    return "audit" if decision.audit else None
