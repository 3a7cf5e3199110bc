"""The events of a lane's escalations and audits: made, redacted, judged where they need to be, and published."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from serve.escalation import Degraded, Question, Seen, build_event
from serve.metrics import ServeMetrics
from serve.referee import Referee
from serve.request.parts import EventSink
from serve.settings import LaneSettings
from serve.student.slot import Slots
from serve.tasks.face import Face, Kept
from store.errors import LogError, TooLaboriousError
from store.event import TeacherAnswer
from store.log.lazy import logger
from store.policy import Decision
from store.redact import restore
from store.student.loaded import Compares
from store.tasks.rules import Dispute, TaskRules
from store.tracing import names
from store.tracing.spans import span

_log: Final = logger(__name__)


class LaneEvents:
    """One lane's events on their way to the log."""

    def __init__(
        self,
        settings: LaneSettings,
        sink: EventSink,
        *,
        face: Face,
        rules: TaskRules,
        slots: Slots,
        metrics: ServeMetrics,
        redact: Callable[[str], str],
        referee: Referee | None,
    ) -> None:
        """Put the parts together. Without a `referee`, audits of texts say what rules tell."""
        self._settings = settings
        self._sink = sink
        self._face = face
        self._rules = rules
        self._slots = slots
        self._metrics = metrics
        self._redact = redact
        self._referee = referee
        self._labels = (settings.lane.tenant, settings.lane.use_case)

    async def publish(
        self, question: Question, seen: Seen, decision: Decision, answer: TeacherAnswer, *, audit: bool = False
    ) -> Degraded | None:
        """Wait until the event is accepted; a paid answer goes out even when it is not.

        An audit is judged before: nobody waits for it. A client waits for the event of an escalation, whose answers a
        cycle has judged where it needs to know.
        """
        kept = await self._kept(question, answer)
        event = build_event(
            self._face.event_type,
            self._settings.lane,
            question,
            seen,
            decision,
            kept.answer,
            eligible=kept.learnable and self._settings.training_permitted,
        )
        if audit and self._referee is not None and (dispute := self._rules.disputed(event)) is not None:
            event = await self._judged(self._referee, event, question, dispute)
        try:
            said = {names.MESSAGING_OPERATION: "send", names.MESSAGING_ID: event.id}
            with span("send event", "producer", said) as one:
                traceparent = None if one.context is None else one.context.traceparent
                await self._sink.publish(event, question.item_id, traceparent=traceparent)
        except LogError as error:
            self._metrics.dropped.labels(*self._labels).inc()
            _log.error("escalation dropped", lane=str(self._settings.lane), event_id=event.id, error=str(error))
            return "escalation_dropped"
        return None

    async def _kept(self, question: Question, answer: TeacherAnswer) -> Kept:
        """What the event keeps of an answer, redacted; nobody learns from a text that would take too long to redact."""
        kept, laborious = self._face.kept(question.value, answer), list[str]()
        if not self._rules.answers_are_texts:
            return kept  # there is nothing to redact, and no thread to wait for

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
        with self._slots.pinned() as slot:
            if slot is not None and isinstance(slot.student, Compares):
                distance = await asyncio.to_thread(slot.student.distance, *dispute)
        verdict = await referee.verdict(question.value, dispute, distance)
        return msgspec.structs.replace(event, student=msgspec.structs.replace(event.student, verdict=verdict))
