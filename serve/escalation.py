"""Building the event of one escalation: pure, redacted, and with the student's opinion from before the answer."""

from dataclasses import dataclass
from typing import Final, Literal

from serve.student.line import Outcome, Ticket
from serve.student.slot import Opinion
from store.event import (
    ClassifyEscalation,
    EscalationCause,
    LabelAnswer,
    Lane,
    Reason,
    StudentOpinion,
    TextInput,
    Usage,
    utc,
)
from store.policy import Decision, Policy, StudentView

ServedBy = Literal["student", "teacher"]
Degraded = Literal["teacher_down", "teacher_busy", "invalid_answer", "escalation_dropped", "budget_unavailable"]
Fault = Literal["teacher_down", "teacher_busy", "invalid_answer"]  # of the teacher

_NOTHING_USED: Final = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One text of one request, as admitted."""

    text: str  # as the client sent it; for the teacher alone
    redacted: TextInput  # canonical and redacted: what the student reads and the event carries
    item_id: str
    event_id: str
    at_s: float  # Unix seconds
    subject: str | None
    forced: bool
    traceparent: str | None = None  # W3C trace context, for the record's headers
    ticket: Ticket | None = None  # of the request; a forced question without one is not put to the student


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The version that a request pinned and what its student made of the text; holds no weights."""

    version: str | None  # None while cold
    policy: Policy | None
    outcome: Outcome | None  # None: cold, or the forward pass failed
    uncertainty: float | None = None  # 1 - (p1 - p2), where the lane's policy is its budget

    @property
    def opinion(self) -> Opinion | None:
        """The student's output, if it could read the text."""
        return self.outcome if isinstance(self.outcome, Opinion) else None

    @property
    def view(self) -> StudentView | None:
        """What the decision needs of it."""
        opinion = self.opinion
        return None if opinion is None else StudentView(confidence=opinion.confidence, novelty=opinion.novelty)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the client gets for one text."""

    label: str
    probs: list[float] | None  # the student's, in its label order; None where the teacher answered
    num_classes: int
    served_by: ServedBy
    reason: Reason | None
    version: str | None  # the version that the request pinned, whoever answered
    event_id: str | None  # of the event that was accepted or, for an audit, will be; None when there is none
    propensity: float
    withheld: bool = False
    degraded: Degraded | None = None
    usage: Usage = _NOTHING_USED
    labels: tuple[str, ...] | None = None  # of `probs`; also None where an earlier release kept the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Nobody answers, and why."""

    status: int  # HTTP
    code: Literal["budget_exhausted", "budget_unavailable", "teacher_down", "invalid_answer", "overloaded"]
    message: str
    retry_after_s: int | None = None


def build_event(
    lane: Lane, question: Question, seen: Seen, decision: Decision, answer: LabelAnswer, *, eligible: bool
) -> ClassifyEscalation:
    """The event of a question that the teacher answered.

    Raises:
        ValueError: the decision did not send the question to the teacher.
    """
    if decision.reason is None:
        message = "a question that nobody sent to the teacher has no event"
        raise ValueError(message)
    return ClassifyEscalation(
        id=question.event_id,
        time=utc(question.at_s),
        use_case=lane.use_case,
        tenant=lane.tenant,
        student=_opinion(seen),
        escalation=EscalationCause(
            reason=decision.reason,
            threshold=None if seen.policy is None else seen.policy.threshold,
            propensity=decision.propensity,
        ),
        subject=question.subject,
        eligible=eligible,
        input=question.redacted,
        teacher=answer,
    )


def _opinion(seen: Seen) -> StudentOpinion | None:
    opinion = seen.opinion
    if opinion is None or seen.version is None:
        return None
    return StudentOpinion(
        version=seen.version, output=opinion.label, confidence=opinion.confidence, members=opinion.members
    )


def student_answer(
    opinion: Opinion,
    seen: Seen,
    decision: Decision,
    *,
    event_id: str | None = None,
    degraded: Degraded | None = None,
    usage: Usage = _NOTHING_USED,
) -> Answer:
    """The student's answer: trusted, withheld from the teacher, or given because the teacher could not."""
    return Answer(
        label=opinion.label,
        probs=opinion.probs,
        labels=opinion.labels,
        num_classes=len(opinion.probs),
        served_by="student",
        reason=decision.reason,
        version=seen.version,
        event_id=event_id,
        propensity=0.0 if degraded else decision.propensity,
        withheld=decision.withheld,
        degraded=degraded,
        usage=usage,
    )
