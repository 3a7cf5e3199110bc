"""When the student may answer: the policy that a version ships, and the pure decision made with it."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from store.event import Reason


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Calibrated for one version on its own held-out rows; it ships inside the version and fits no other."""

    temperature: float  # divides log-probabilities before the softmax (Guo et al. 2017)
    threshold: float | None  # the student answers at this confidence or above; None: nothing is certified
    novelty_threshold: float | None  # distance to the nearest reference vector above which an input is novel
    target: float  # answered agreement promised
    confidence_level: float  # with which the threshold was certified
    coverage_ratio: float  # share of calibrated traffic that the threshold lets the student answer
    rows: int  # calibration rows at or above the threshold
    lower: float  # lower confidence bound of answered agreement at the threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentView:
    """What the decision needs to know of the student's output."""

    confidence: float  # largest probability after temperature scaling
    novelty: float  # distance to the nearest reference vector


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetView:
    """What the budget still allows. Audits are reserved first, so they may be open when escalations are not."""

    may_escalate: bool
    may_audit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Who answers and why."""

    route: Literal["student", "teacher", "nobody"]  # nobody: no student, and the budget binds
    reason: Reason | None  # None: the student is trusted and nobody checks
    propensity: float  # probability that a request like this reaches the teacher; 0 when withheld
    audit: bool = False  # the student answers, and the teacher is asked in the background
    withheld: bool = False  # the policy would have escalated; the budget binds


def decide(
    policy: Policy | None,
    view: StudentView | None,
    budget: BudgetView,
    *,
    audit_ratio: float,
    draw: float,
    required: Literal["forced", "too_long", "unsupported"] | None = None,
) -> Decision:
    """Route one request. Pure: the same values give the same decision.

    Args:
        policy: the serving version's, None while there is no version.
        view: the student's output, None when the student is down or cannot take the input.
        budget: what may still be spent.
        audit_ratio: share of trusted answers that are audited.
        draw: uniform in [0, 1), drawn anew for each request.
        required: a reason that sends the request to the teacher whatever the student says.
    """
    reason = required or _distrust(policy, view)
    if reason is None:
        propensity = audit_ratio if budget.may_audit else 0.0
        audited = draw < propensity
        return Decision(route="student", reason="audit" if audited else None, propensity=propensity, audit=audited)
    if budget.may_escalate:
        return Decision(route="teacher", reason=reason, propensity=1.0)
    if view is None:
        return Decision(route="nobody", reason=reason, propensity=0.0, withheld=True)
    return Decision(route="student", reason=reason, propensity=0.0, withheld=True)


def _distrust(policy: Policy | None, view: StudentView | None) -> Reason | None:
    if policy is None:
        return "cold"
    if view is None:
        return "student_down"
    if policy.novelty_threshold is not None and view.novelty > policy.novelty_threshold:
        return "novel"
    if policy.threshold is None or view.confidence < policy.threshold:
        return "low_confidence"
    return None
