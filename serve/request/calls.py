"""Calls of a lane's teacher: asked, paid, counted, and what is wrong with an answer said."""

import logging
from collections.abc import Callable
from typing import Final, assert_never

from serve.counts import Counts
from serve.escalation import Question
from serve.metrics import ServeMetrics
from serve.request.admission import TeacherTurns
from serve.request.parts import Teaches
from serve.teacher.budget import Budget, Spend
from serve.teacher.client import Answered, Invalid, Reply, Unavailable
from store.event import Lane
from store.log.lazy import logger

_log: Final = logger(__name__)
_SHOWN_CHARS: Final = 2_000  # of an answer that cannot be read


class TeacherCalls:
    """One lane's calls, whoever wants them."""

    def __init__(
        self,
        lane: Lane,
        teacher: Teaches,
        *,
        turns: TeacherTurns,
        budget: Budget,
        counts: Counts,
        metrics: ServeMetrics,
        redact: Callable[[str], str],
    ) -> None:
        """Put the parts together; `redact` is for what is logged of an answer."""
        self._lane = lane
        self._teacher = teacher
        self._turns = turns
        self._budget = budget
        self._counts = counts
        self._metrics = metrics
        self._redact = redact
        self._labels = (lane.tenant, lane.use_case)

    async def ask(
        self,
        question: Question,
        spend: Spend,
        wanted: Callable[[], bool] = lambda: True,
        hear: Callable[[bytes], None] | None = None,
    ) -> Reply:
        """Ask, and settle what it cost. A call that is cancelled midway counts in full: it may have been billed."""
        self._turns.asked += 1
        try:
            reply = await self._teacher.ask(question.value, wanted, hear)
        except BaseException:
            self._pay(spend, self._teacher.cost_bound_usd(question.value), bounded=True)
            raise
        finally:
            self._turns.asked -= 1
        calls = self._metrics.teacher_calls
        match reply:
            case Answered(answer=answer):
                self._pay(spend, answer.cost_usd, bounded=not answer.usage.prompt_tokens)
                self._turns.took(answer.latency_ms / 1000)
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
                    self._pay(spend, self._teacher.cost_bound_usd(question.value), bounded=True)
                else:
                    self._budget.settle(spend, None)
                calls.labels(*self._labels, "unavailable").inc()
            case _:
                assert_never(reply)
        if not isinstance(reply, Unavailable):
            self._counts.heard(readable=isinstance(reply, Answered))
        return reply

    def _pay(self, spend: Spend, usd: float, *, bounded: bool) -> None:
        """Settle a call, and count it; `bounded`: nobody said what it cost, and this is the most it can have."""
        self._budget.settle(spend, usd)
        self._counts.paid(usd, audit=spend.lease.kind == "audit", bounded=bounded)

    def _tell_invalid(self, reply: Invalid, event_id: str) -> None:
        """Log what is wrong with an answer; the answer itself at debug level, redacted."""
        about = {"lane": str(self._lane), "event_id": event_id, "kind": reply.kind}
        _log.warning("invalid answer", detail=reply.detail, **about)
        if logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
            _log.debug("what the teacher said", said=self._redact(reply.said[:_SHOWN_CHARS]), **about)
