"""The way of one question: student, decision, teacher or student, event, answer.

The student answers in milliseconds or the teacher is asked; a paid answer is published before it is sent, in a task of
its own, so that neither a client that hangs up nor a shutdown loses it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, assert_never

from serve.counts import CountedAs, Counts
from serve.escalation import Answer, Common, Question, Refusal, Seen, TeacherFault, of_student
from serve.metrics import ServeMetrics
from serve.referee import Referee
from serve.request.admission import OverloadedError, Shed, TeacherTurns
from serve.request.calls import TeacherCalls
from serve.request.events import LaneEvents
from serve.request.parts import EventSink, Forward, Teaches
from serve.request.refusals import not_paid, not_taught, overloaded
from serve.routing.routing import Choice, Required, Routing
from serve.settings import LaneSettings
from serve.student.asking import StudentAsking
from serve.student.executor import StudentBusyError, StudentFailedError
from serve.student.line import StudentReply, TooLong
from serve.student.slot import Slot, Slots
from serve.tasks.face import Face
from serve.teacher.audit import Audits
from serve.teacher.budget import LAST_PATIENCE_S, PATIENCE_S, Budget, Spend
from serve.teacher.client import Answered, Invalid, Unavailable
from serve.teacher.ledger import CallKind
from serve.tracing.calls import opinion_said, student_span
from store.event import Usage
from store.policy import BudgetView, Decision
from store.student.loaded import Opinion
from store.tasks.rules import TaskRules
from store.tracing import names
from store.tracing.spans import about, carried

_CUT_OFF_S: Final = 1.0  # for a call that was cut off to let go of what it holds


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
        self._student = StudentAsking(settings, slots, forward, matter=face, heed=face.heed(settings), routing=routing)
        self._calls = TeacherCalls(
            settings.lane,
            teacher,
            turns=self.turns,
            budget=budget,
            counts=counts,
            metrics=metrics,
            redact=redact,
        )
        self._events = LaneEvents(
            settings,
            sink,
            face=face,
            rules=rules,
            slots=slots,
            metrics=metrics,
            redact=redact,
            referee=referee,
        )
        self._rules = rules
        self._draw = draw
        self._metrics = metrics
        self._monotonic = monotonic
        self._labels = (settings.lane.tenant, settings.lane.use_case)
        self._paid: set[asyncio.Task[Answer | Refusal]] = set()

    async def answer(self, question: Question) -> Answer | Refusal:
        """Answer one question."""
        with about({names.EVENT_ID: question.event_id, names.LANE: str(self.settings.lane)}):
            return await self._counted(question)

    async def _counted(self, question: Question) -> Answer | Refusal:
        started_s = self._monotonic()
        try:
            seen = await self._student.see(question)
        except StudentBusyError as error:
            self.count_shed("waited_in_vain")
            return overloaded(OverloadedError(error.wait_s, reason="waited_in_vain"))
        try:
            found, decision = await self._answer(question, seen)
        finally:
            if seen.talk is not None:
                seen.talk.drop()
        self._count(found, question, decision, self._monotonic() - started_s)
        return found

    async def _answer(self, question: Question, seen: Seen) -> tuple[Answer | Refusal, Decision]:
        """Decide, and have the question answered so."""
        decision, spend = await self._decide(question, seen)
        if decision.route == "teacher" and spend is None:
            return await self._without_teacher(question, seen, decision, "teacher_busy", Usage()), decision
        if spend is not None and not decision.audit:
            if seen.talk is not None:
                seen.talk.drop()
            return await self._in_own_task(partial(self._escalate, question, seen, decision, spend)), decision
        if seen.opinion is None or decision.route == "nobody" or (question.forced and spend is None):
            return not_paid(budget_known=not self.budget.silent), decision
        unknown = decision.withheld and self.budget.silent
        said = of_student(
            seen,
            decision,
            event_id=question.event_id if spend else None,
            degraded="budget_unavailable" if unknown else None,
        )
        try:
            whole = await self._whole(question, seen, said)
        except BaseException:
            if spend is not None:
                self.budget.settle(spend, None)
            raise
        if (opinion := whole.opinion) is None:  # nothing has left: whoever can answers
            if spend is not None:
                self.budget.settle(spend, None)
            return await self._answer(question, whole)
        if spend is not None:
            self.audits.submit(carried(partial(self._audit, question, whole, decision, spend)))
        return self.face.of_student(opinion, said, question.noted), decision

    async def _whole(self, question: Question, seen: Seen, said: Common) -> Seen:
        """What was seen with the student's whole answer, which the client hears while it grows; or with none.

        Raises:
            StudentFailedError: some of it has left, and there is no more.
        """
        if seen.talk is None or (view := seen.opinion) is None:
            return seen
        voice = question.voice
        if voice is not None:
            voice.begin(Answer(**said))
        reply: StudentReply | None = None
        try:
            with student_span(self.settings, seen.version or "") as one:
                reply = await seen.talk.listen(None if voice is None else voice.say)
                one.note(opinion_said(reply))
        except (StudentFailedError, StudentBusyError):
            if voice is not None and voice.told:
                raise
        opinion = reply if isinstance(reply, Opinion) else None
        if opinion is not None and (voice is None or not voice.told):
            opinion = self._student.heed(opinion, question.value)
        if opinion is not None:
            opinion = replace(opinion, confidence=view.confidence, uncertainty=view.uncertainty)
        return replace(seen, outcome=opinion, talk=None)

    async def try_teacher(self, question: Question) -> None:
        """Ask a question of our own, if the budget allows one, to see whether the teacher answers; nobody learns it."""
        bound_usd = self.teacher.cost_bound_usd(question.value)
        await self.budget.prepare("escalation", bound_usd)
        if self.budget.allows("escalation", bound_usd):
            await self._calls.ask(question, self.budget.take("escalation", bound_usd))

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
        last = question.forced or seen.opinion is None
        await self.budget.prepare(kind, bound_usd, patience_s=LAST_PATIENCE_S if last else PATIENCE_S)
        allowed = self.budget.allows(kind, bound_usd)
        may_audit = allowed and kind == "audit" and self.audits.has_room
        decision = chosen(BudgetView(may_escalate=allowed and kind == "escalation", may_audit=may_audit))
        return decision, self.budget.take(kind, bound_usd) if _kind(decision) else None

    def _choice(self, question: Question, seen: Seen) -> Choice:
        """The lane's policy for this question, as a function of what may be spent."""
        required: Required | None = None
        if question.forced:
            required = "forced"
        elif question.unsupported or seen.unsupported:
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
        reply = await self._calls.ask(question, spend, wanted, question.hear)
        match reply:
            case Answered(answer=answer):
                degraded = await self._events.publish(question, seen, decision, answer)
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
                return await self._without_teacher(question, seen, decision, "invalid_answer", usage)
            case Unavailable():
                return await self._without_teacher(question, seen, decision, "teacher_down", Usage())
            case _:
                assert_never(reply)

    async def _without_teacher(
        self, question: Question, seen: Seen, decision: Decision, why: TeacherFault, usage: Usage
    ) -> Answer | Refusal:
        """The student's answer, or none: who forces the teacher wants no other."""
        if seen.talk is not None:  # it is answered anew, and as a whole
            seen.talk.drop()
            try:
                seen = await self._student.see(replace(question, moment="end"))
            except StudentBusyError:
                seen = replace(seen, outcome=None, talk=None)
        if (opinion := seen.opinion) is not None and not question.forced:
            said = of_student(seen, decision, degraded=why, usage=usage)
            return self.face.of_student(opinion, said, question.noted)
        if why == "teacher_busy":
            self.count_shed("teacher_turns")
        return not_taught(why, self.turns.wait_s)

    async def _audit(self, question: Question, seen: Seen, decision: Decision, spend: Spend) -> None:
        reply = await self._calls.ask(question, spend)
        lost = "lost" if not isinstance(reply, Answered) else None
        if isinstance(reply, Answered):
            lost = "lost" if await self._events.publish(question, seen, decision, reply.answer, audit=True) else None
        self._metrics.audits.labels(*self._labels, lost or "published").inc()

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
