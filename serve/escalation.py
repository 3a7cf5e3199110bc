"""One question, what its student made of it, and what comes of it: an answer, a refusal, an event. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypedDict

from serve.student.line import StudentReply, Ticket
from serve.student.talk import Talk
from store.event import (
    EscalationBase,
    EscalationCause,
    Lane,
    Reason,
    StudentOpinion,
    TaskInput,
    TeacherAnswer,
    Usage,
    utc,
)
from store.policy import Decide, Decision, Policy
from store.student.loaded import Opinion

ServedBy = Literal["student", "teacher"]
Degraded = Literal["teacher_down", "teacher_busy", "invalid_answer", "escalation_dropped", "budget_unavailable"]
TeacherFault = Literal["teacher_down", "teacher_busy", "invalid_answer"]  # of the teacher

_NOTHING_USED: Final = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of one request, as admitted."""

    value: TaskInput  # as the client sent it; for the teacher alone
    redacted: TaskInput  # what the student reads and the event carries
    item_id: str
    event_id: str
    at_s: float  # Unix seconds
    subject: str | None
    forced: bool
    unsupported: bool = False  # it wants what no student can do
    tokens: int = 1  # about how many the student reads for it
    noted: Mapping[str, str] = field(default_factory=dict, repr=False)  # what its tokens of personal data stand for
    hear: Callable[[bytes], None] | None = None  # who is told of a teacher's answer while it comes
    ticket: Ticket | None = None  # of the request; a forced question without one is not put to the student
    moment: Decide = "end"  # when it is decided who answers
    voice: "Voice | None" = None  # the student's answer is told while it grows; only where it is trusted before


class Voice(Protocol):
    """Tells a client the student's answer while it grows."""

    @property
    def told(self) -> int:
        """How many characters have left: with the first of them, nobody else answers."""

    @property
    def speaker(self) -> "Answer | None":
        """Who speaks, as far as that is known before the answer is whole."""

    def begin(self, answer: "Answer") -> None:
        """Hear who speaks, before anything is said."""

    def say(self, text: str) -> None:
        """The answer so far, as the student wrote it; longer each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The version that a request pinned and what its student made of the question; holds no weights."""

    version: str | None  # None while cold
    policy: Policy | None
    outcome: StudentReply | None  # None: cold, or the forward pass failed
    unsupported: bool = False  # it was not trained for what the question wants
    talk: Talk | None = None  # the answer, which is not whole: the outcome only says how sure the student is

    @property
    def opinion(self) -> Opinion | None:
        """The student's output, if it could read the question."""
        return self.outcome if isinstance(self.outcome, Opinion) else None


class Common(TypedDict):
    """What every task's answer says."""

    served_by: ServedBy
    reason: Reason | None
    version: str | None
    event_id: str | None
    propensity: float
    withheld: bool
    degraded: Degraded | None
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the client gets for one question; each task's own kind says what was answered."""

    served_by: ServedBy
    reason: Reason | None
    version: str | None  # the version that the request pinned, whoever answered
    event_id: str | None  # of the event that was accepted or, for an audit, will be; None when there is none
    propensity: float
    withheld: bool = False
    degraded: Degraded | None = None
    usage: Usage = _NOTHING_USED


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Nobody answers, and why."""

    status: int  # HTTP
    code: Literal["budget_exhausted", "budget_unavailable", "teacher_down", "invalid_answer", "overloaded"]
    message: str
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a request came to."""

    first_id: str  # event id of its first question, which names the response
    at_s: float
    found: Sequence[Answer | Refusal]
    replayed: bool = False
    shared: bool = True  # other replicas know of it


def build_event(
    kind: type[EscalationBase],
    lane: Lane,
    question: Question,
    seen: Seen,
    decision: Decision,
    answer: TeacherAnswer,
    *,
    eligible: bool,
) -> Any:
    """The event, of the task's kind, of a question that the teacher answered.

    Raises:
        ValueError: the decision did not send the question to the teacher.
    """
    if decision.reason is None:
        message = "a question that nobody sent to the teacher has no event"
        raise ValueError(message)
    make: Any = kind  # whose input and teacher are the task's own
    return make(
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
    if opinion is None or seen.version is None or seen.talk is not None:
        return None
    return StudentOpinion(
        version=seen.version, output=opinion.output, confidence=opinion.confidence, members=opinion.members
    )


def of_student(
    seen: Seen,
    decision: Decision,
    *,
    event_id: str | None = None,
    degraded: Degraded | None = None,
    usage: Usage = _NOTHING_USED,
) -> Common:
    """What is said of the student's answer: trusted, withheld from the teacher, or given because it could not."""
    return Common(
        served_by="student",
        reason=decision.reason,
        version=seen.version,
        event_id=event_id,
        propensity=0.0 if degraded else decision.propensity,
        withheld=decision.withheld,
        degraded=degraded,
        usage=usage,
    )
