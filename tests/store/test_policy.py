"""The decision who answers."""

import random

import pytest

from store.policy import BudgetView, Decision, Policy, StudentView, decide

OPEN = BudgetView(may_escalate=True, may_audit=True)
POLICY = Policy(
    temperature=1.0,
    threshold=0.8,
    novelty_threshold=0.5,
    target=0.95,
    confidence_level=0.95,
    coverage_ratio=0.6,
    rows=100,
    lower=0.951,
)
SURE = StudentView(confidence=0.9, novelty=0.1)


def route(
    policy: Policy | None = POLICY, view: StudentView | None = SURE, budget: BudgetView = OPEN, draw: float = 0.99
) -> Decision:
    return decide(policy, view, budget, audit_ratio=0.05, draw=draw)


@pytest.mark.parametrize(
    ("policy", "view", "reason"),
    [
        (None, None, "cold"),
        (POLICY, None, "student_down"),
        (POLICY, StudentView(confidence=0.79, novelty=0.1), "low_confidence"),
        (POLICY, StudentView(confidence=0.99, novelty=0.6), "novel"),
    ],
)
def test_what_the_student_cannot_answer_well_goes_to_the_teacher(
    policy: Policy | None, view: StudentView | None, reason: str
) -> None:
    decision = route(policy, view)
    assert (decision.route, decision.reason, decision.propensity) == ("teacher", reason, 1.0)


def test_without_a_certified_threshold_everything_is_escalated() -> None:
    uncertified = Policy(**{**{f: getattr(POLICY, f) for f in Policy.__struct_fields__}, "threshold": None})
    assert route(uncertified).route == "teacher"


def test_a_confident_answer_is_the_students_and_its_propensity_is_the_audits() -> None:
    assert route() == Decision(route="student", reason=None, propensity=0.05)


def test_the_share_of_audits_is_the_stated_one() -> None:
    rng = random.Random(7)
    audited = sum(route(draw=rng.random()).audit for _ in range(20_000))
    assert 0.045 < audited / 20_000 < 0.055


def test_a_binding_budget_withholds_and_says_so() -> None:
    bound = BudgetView(may_escalate=False, may_audit=True)
    decision = route(view=StudentView(confidence=0.1, novelty=0.0), budget=bound)
    assert decision == Decision(route="student", reason="low_confidence", propensity=0.0, withheld=True)
    assert route(None, None, bound).route == "nobody"


def test_audits_go_on_when_escalations_may_not() -> None:
    assert route(budget=BudgetView(may_escalate=False, may_audit=True), draw=0.01).audit
    assert not route(budget=BudgetView(may_escalate=False, may_audit=False), draw=0.01).audit


def test_a_forced_request_goes_to_the_teacher_whatever_the_student_says() -> None:
    decision = decide(POLICY, SURE, OPEN, audit_ratio=0.05, draw=0.5, required="forced")
    assert (decision.route, decision.reason) == ("teacher", "forced")
