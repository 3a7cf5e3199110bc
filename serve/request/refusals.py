"""What a client is told that gets no answer: the true cause, and what would mend it."""

from typing import Final

from serve.escalation import Refusal, TeacherFault
from serve.request.admission import OverloadedError

_UNKNOWN_S: Final = 1  # a lease is asked for again after this
_EXHAUSTED_S: Final = 60  # calls roll out of the window in buckets of minutes
_DOWN_S: Final = 5  # half of what a breaker stays open for
_UNREADABLE_S: Final = 1  # the same question may be answered better at once; each time it is paid for
_NOT_PAID: Final = {
    "budget_exhausted": "the budget binds, and only the teacher could answer this: raise lanes.budget, or wait for it "
    "to roll over",
    "budget_unavailable": "only the teacher could answer this, and what is left of the budget is not known: Redis does "
    "not answer or takes no writes, or it has just been restored and all replicas are counted anew",
}


def not_paid(*, budget_known: bool) -> Refusal:
    """No call may be spent."""
    if budget_known:
        message = _NOT_PAID["budget_exhausted"]
        return Refusal(status=503, code="budget_exhausted", message=message, retry_after_s=_EXHAUSTED_S)
    message = _NOT_PAID["budget_unavailable"]
    return Refusal(status=503, code="budget_unavailable", message=message, retry_after_s=_UNKNOWN_S)


def not_taught(why: TeacherFault, wait_s: float) -> Refusal:
    """The teacher gave no answer, or would give it too late; `wait_s` is for a turn."""
    match why:
        case "teacher_busy":
            return overloaded(OverloadedError(wait_s, reason="teacher_turns"))
        case "teacher_down":
            message = "the teacher does not answer, and only it could"
            return Refusal(status=503, code=why, message=message, retry_after_s=_DOWN_S)
        case "invalid_answer":
            message = "the teacher's answer is not one of the labels, and only it could answer"
            return Refusal(status=502, code=why, message=message, retry_after_s=_UNREADABLE_S)


def overloaded(error: OverloadedError) -> Refusal:
    """The gateway is busy."""
    return Refusal(status=429, code="overloaded", message=str(error), retry_after_s=error.retry_after_s)
