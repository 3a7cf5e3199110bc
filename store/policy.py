"""When the student may answer. Two policies, both pure: keep a promise, or make the most of a budget.

A promise is kept by the threshold that a version ships. A budget is spent where the student is least sure of itself,
evenly over the traffic that is still to come; it promises nothing of what the student answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from store.event import Reason

PolicyName = Literal["promise", "budget"]
Moment = Literal["prompt", "first_tokens"]
"""When a student that answers in many steps can say how sure it is, before its answer is whole."""
Decide = Literal["end", Moment]
"""When a lane decides who answers: once the answer is whole, or at an earlier moment."""
Metric = Literal["accuracy", "balanced_accuracy"]

METRICS: Final[Mapping[PolicyName, tuple[Metric, ...]]] = {  # a promise counts each question alike
    "promise": ("accuracy",),
    "budget": ("accuracy", "balanced_accuracy"),
}

OUTRIGHT_RATIO: Final = 0.25  # of the budget, bought whatever the student says: a label is worth most at the start
OUTRIGHT_ROWS_RATIO: Final = 0.05  # and of the questions, as far as the budget goes
PACE_EXPONENT: Final = 0.65  # below 1 spends sooner: a label is worth more the earlier it comes


class EarlyPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """As a `Policy`, for how sure the student was at an earlier moment; certified by itself."""

    threshold: float | None
    coverage_ratio: float
    rows: int
    lower: float


class Policy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Calibrated for one version on its own held-out rows; it ships inside the version and fits no other."""

    temperature: float  # divides log-probabilities before the softmax (Guo et al. 2017)
    threshold: float | None  # the student answers at this confidence or above; None: nothing is certified
    novelty_threshold: float | None  # distance to the nearest reference vector above which an input is novel
    target: float  # answered agreement promised
    confidence_level: float  # with which the threshold was certified
    coverage_ratio: float  # share of calibrated traffic that the threshold lets the student answer
    rows: int  # calibration rows at or above the threshold
    lower: float  # lower confidence bound of answered agreement at the threshold
    early: dict[Moment, EarlyPolicy] = {}

    def at(self, moment: Decide) -> "Policy":
        """What holds where the lane decides at this moment; what was not calibrated lets the student answer nothing."""
        if moment == "end":
            return self
        found = self.early.get(moment, EarlyPolicy(threshold=None, coverage_ratio=0.0, rows=0, lower=0.0))
        return msgspec.structs.replace(self, **msgspec.structs.asdict(found))


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


def who_answers(
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a budget-only lane has left, found anew for every question."""

    calls_left: int
    rows_left: float  # questions still to come within the budget's time, this one included
    bought: int  # calls that were spent within it
    first: float = 0.0  # calls that are bought outright, of `outright_calls`
    recurring: bool = False  # calls come back all the time: to spend sooner would be to spend more

    @property
    def outright(self) -> bool:
        """Whether the first calls are still being bought."""
        return self.calls_left > 0 and self.bought < self.first

    @property
    def exponent(self) -> float:
        """Of the pace: 1 spends evenly, less sooner."""
        return 1.0 if self.recurring else PACE_EXPONENT


def outright_calls(calls: float, rows: float | None) -> float:
    """How many calls are bought outright: a quarter of the budget, or a twentieth of the questions if that is more.

    Args:
        calls: of the whole budget.
        rows: questions that it is for; None where nobody has said how many.
    """
    return max(OUTRIGHT_RATIO * calls, OUTRIGHT_ROWS_RATIO * (rows or 0.0))


def escalation_limit(recent: Sequence[float], allowance: Allowance) -> float:
    """The uncertainty from which on a question is bought: the 1 - r^.65 quantile of recent ones.

    r = calls left / rows left, and .65 the allowance's exponent. Planned anew on every row, it spends the whole budget
    by the last one.

    Args:
        recent: uncertainties, 1 - (p1 - p2), of the latest traffic whoever answered it, this question's included.
        allowance: what is left.
    """
    import numpy as np  # noqa: PLC0415 - a third of a second that a rollback, which only reads policies, need not wait for

    ratio = allowance.calls_left / max(allowance.rows_left, 1.0)
    if ratio >= 1.0 or not recent:
        return 0.0
    return float(np.quantile(np.asarray(recent), 1.0 - ratio**allowance.exponent))


def decide_by_budget(
    uncertainty: float | None,
    limit: float,
    budget: BudgetView,
    *,
    cold: bool,
    outright: bool,
    audit_ratio: float,
    draw: float,
    required: Literal["forced", "too_long", "unsupported"] | None = None,
) -> Decision:
    """Route one request of a lane that only has a budget. Pure.

    Args:
        uncertainty: 1 - (p1 - p2) of the student's output, None when there is none.
        limit: of `escalation_limit`.
        budget: what may still be spent.
        cold: there is no version yet.
        outright: the first labels are bought whatever the student says.
        audit_ratio: share of the student's answers that are audited.
        draw: uniform in [0, 1), drawn anew for each request.
        required: a reason that sends the request to the teacher whatever the student says.
    """
    reason: Reason | None = required
    if reason is None and uncertainty is None:
        reason = "cold" if cold else "student_down"
    elif reason is None and outright:
        reason = "bought"
    elif reason is None and uncertainty is not None and uncertainty >= limit:
        reason = "budget_margin"
    if reason is not None and budget.may_escalate:
        return Decision(route="teacher", reason=reason, propensity=1.0)
    if uncertainty is None:
        return Decision(route="nobody", reason=reason, propensity=0.0, withheld=True)
    if reason is not None:
        return Decision(route="student", reason=reason, propensity=0.0, withheld=True)
    propensity = audit_ratio if budget.may_audit else 0.0
    audited = draw < propensity
    return Decision(route="student", reason="audit" if audited else None, propensity=propensity, audit=audited)


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
