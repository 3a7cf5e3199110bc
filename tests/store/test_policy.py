"""The decision who answers, for a promise and for a budget."""

import random
from collections import deque
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis.strategies import booleans, floats, integers, lists, none, sampled_from

from store.event import Reason
from store.policy import (
    Allowance,
    BudgetView,
    Decision,
    Policy,
    StudentView,
    decide_by_budget,
    escalation_limit,
    outright_calls,
    who_answers,
)

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
    return who_answers(policy, view, budget, audit_ratio=0.05, draw=draw)


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
    decision = who_answers(POLICY, SURE, OPEN, audit_ratio=0.05, draw=0.5, required="forced")
    assert (decision.route, decision.reason) == ("teacher", "forced")


UNCERTAINTIES = floats(0.0, 1.0)


@given(
    uncertainty=none() | UNCERTAINTIES,
    limit=UNCERTAINTIES,
    may_audit=booleans(),
    cold=booleans(),
    outright=booleans(),
    draw=floats(0.0, 1.0, exclude_max=True),
    required=sampled_from((None, "forced", "too_long")),
)
def test_a_budget_only_lane_never_escalates_what_its_budget_does_not_allow(
    uncertainty: float | None,
    limit: float,
    may_audit: bool,  # noqa: FBT001 - hypothesis draws it
    cold: bool,  # noqa: FBT001 - hypothesis draws it
    outright: bool,  # noqa: FBT001 - hypothesis draws it
    draw: float,
    required: Literal["forced", "too_long"] | None,
) -> None:
    def decided(budget: BudgetView) -> Decision:
        return decide_by_budget(
            uncertainty,
            limit,
            budget,
            cold=cold,
            outright=outright,
            audit_ratio=0.1,
            draw=draw,
            required=required,
        )

    wished = decided(BudgetView(may_escalate=True, may_audit=may_audit))
    refused = decided(BudgetView(may_escalate=False, may_audit=may_audit))
    assert refused.route != "teacher"
    assert refused.withheld == (wished.route == "teacher")
    assert refused.propensity == (0.0 if refused.withheld else wished.propensity)
    assert (refused.route == "nobody") == (uncertainty is None)
    assert may_audit or not (wished.audit or refused.audit)
    assert wished.route == "teacher" or wished == refused


@pytest.mark.parametrize(
    ("uncertainty", "cold", "outright", "reason"),
    [
        (None, True, True, "cold"),
        (None, False, True, "student_down"),
        (0.0, False, True, "bought"),
        (0.5, False, False, "budget_margin"),
    ],
)
def test_every_call_of_a_budget_says_what_it_was_bought_for(
    uncertainty: float | None,
    cold: bool,  # noqa: FBT001 - a column of the table
    outright: bool,  # noqa: FBT001 - a column of the table
    reason: Reason,
) -> None:
    decision = decide_by_budget(uncertainty, 0.5, OPEN, cold=cold, outright=outright, audit_ratio=0.1, draw=0.5)
    assert decision == Decision(route="teacher", reason=reason, propensity=1.0)


def test_below_the_limit_the_student_answers_and_is_audited_by_chance() -> None:
    def decided(draw: float) -> Decision:
        return decide_by_budget(0.49, 0.5, OPEN, cold=False, outright=False, audit_ratio=0.1, draw=draw)

    assert decided(0.05) == Decision(route="student", reason="audit", propensity=0.1, audit=True)
    assert decided(0.15) == Decision(route="student", reason=None, propensity=0.1)


@given(recent=lists(UNCERTAINTIES, min_size=1, max_size=50), calls=integers(0, 60), rows=floats(0.0, 60.0))
def test_the_limit_falls_as_calls_are_added_and_nothing_is_dearer_than_the_dearest(
    recent: list[float], calls: int, rows: float
) -> None:
    limit, with_one_more = (
        escalation_limit(recent, Allowance(calls_left=left, rows_left=rows, bought=0)) for left in (calls, calls + 1)
    )
    assert 0.0 <= with_one_more <= limit <= max(recent)
    if calls >= max(rows, 1.0):
        assert limit == 0.0


@pytest.mark.parametrize(
    ("calls", "rows", "limit"),
    [
        (1, 1.0, 0.0),
        (1, 0.5, 0.0),
        (5, 5.0, 0.0),
        (6, 5.0, 0.0),
        (0, 5.0, 0.9),
        (0, 0.0, 0.9),
        (1, 2.0, 0.9 - 0.4 * 0.5**0.65),
    ],
)
def test_where_there_is_a_call_for_every_question_all_are_bought_and_without_one_only_the_dearest(
    calls: int, rows: float, limit: float
) -> None:
    found = escalation_limit([0.5, 0.9], Allowance(calls_left=calls, rows_left=rows, bought=0))
    assert found == pytest.approx(limit)


def buy(calls: int, rows: int, *, told: float, rng: random.Random, recurring: bool = False) -> list[int]:
    """The rows that a stream of random uncertainties buys when it believes that `told` rows will come."""
    recent: deque[float] = deque(maxlen=200)
    bought: list[int] = []
    for row in range(rows):
        uncertainty = rng.random()
        recent.append(uncertainty)
        left = calls - len(bought)
        first = 0.0 if recurring else outright_calls(calls, told)
        allowance = Allowance(
            calls_left=left, rows_left=told - row, bought=len(bought), first=first, recurring=recurring
        )
        decision = decide_by_budget(
            uncertainty,
            escalation_limit(recent, allowance),
            BudgetView(may_escalate=left > 0, may_audit=False),
            cold=False,
            outright=allowance.outright,
            audit_ratio=0.0,
            draw=0.5,
        )
        if decision.route == "teacher":
            bought.append(row)
    return bought


@given(calls=integers(0, 400), rows=integers(1, 1000), seed=integers(0, 1000))
@settings(max_examples=30)
def test_a_known_horizon_spends_the_whole_budget_and_no_more(calls: int, rows: int, seed: int) -> None:
    bought = buy(calls, rows, told=rows, rng=random.Random(seed))
    assert min(calls, rows) - 2 <= len(bought) <= calls


@pytest.mark.parametrize("seed", range(5))
def test_a_horizon_twice_too_long_leaves_calls_and_one_twice_too_short_runs_dry(seed: int) -> None:
    calls, rows = 1500, 4500
    long = buy(calls, rows, told=2 * rows, rng=random.Random(seed))
    assert 0.75 * calls < len(long) < 0.95 * calls
    short = buy(calls, rows, told=rows / 2, rng=random.Random(seed))
    assert len(short) == calls
    assert short[-1] < 0.6 * rows


@pytest.mark.parametrize("seed", range(5))
def test_the_pace_spends_sooner_unless_calls_come_back(seed: int) -> None:
    calls, rows = 300, 1500
    sooner = buy(calls, rows, told=rows, rng=random.Random(seed))
    evenly = buy(calls, rows, told=rows, rng=random.Random(seed), recurring=True)
    assert sum(row < rows / 2 for row in sooner) > 0.7 * calls
    assert sum(row < rows / 2 for row in evenly) == pytest.approx(calls / 2, rel=0.15)


@pytest.mark.parametrize(("calls", "outright"), [(20, 20), (50, 50), (100, 50), (200, 50), (400, 100)])
def test_a_quarter_of_the_budget_is_bought_outright_and_a_twentieth_of_the_questions(calls: int, outright: int) -> None:
    bought = buy(calls, 1000, told=1000, rng=random.Random(1))
    assert bought[:outright] == list(range(outright))
    first = outright_calls(calls, 1000.0)

    def after(bought: int) -> bool:
        return Allowance(calls_left=calls - bought, rows_left=1000 - bought, bought=bought, first=first).outright

    assert after(outright - 1)
    assert not after(outright)
    assert not Allowance(calls_left=0, rows_left=9.0, bought=0, first=first).outright  # another replica spent them
    assert outright_calls(calls, None) == calls / 4
    assert outright_calls(0, None) == 0.0


NOBODY = BudgetView(may_escalate=False, may_audit=False)


@pytest.mark.parametrize(
    ("confidence", "novelty", "reason"),
    [(0.8, 0.5, None), (0.7999, 0.5, "low_confidence"), (0.8, 0.5001, "novel"), (0.1, 0.9, "novel")],
)
def test_the_threshold_itself_is_confident_and_the_limit_itself_is_known(
    confidence: float, novelty: float, reason: str | None
) -> None:
    assert route(view=StudentView(confidence=confidence, novelty=novelty)).reason == reason


def test_a_version_without_a_novelty_limit_finds_nothing_novel() -> None:
    unlimited = Policy(**{**{f: getattr(POLICY, f) for f in Policy.__struct_fields__}, "novelty_threshold": None})
    assert route(unlimited, StudentView(confidence=0.9, novelty=1e9)).route == "student"


def test_a_draw_below_the_ratio_is_an_audit_and_the_ratio_itself_is_none() -> None:
    assert route(draw=0.04999) == Decision(route="student", reason="audit", propensity=0.05, audit=True)
    assert route(draw=0.05) == Decision(route="student", reason=None, propensity=0.05)


def test_where_no_audit_can_be_paid_none_is_drawn_and_none_is_claimed() -> None:
    closed = BudgetView(may_escalate=True, may_audit=False)
    assert route(budget=closed, draw=0.0) == Decision(route="student", reason=None, propensity=0.0)
    assert by_budget(0.1, closed, draw=0.0) == Decision(route="student", reason=None, propensity=0.0)


def test_where_nobody_can_answer_the_decision_says_why_it_would_have_gone_to_the_teacher() -> None:
    expected = Decision(route="nobody", reason="cold", propensity=0.0, withheld=True)
    assert route(None, None, NOBODY) == expected
    assert by_budget(None, NOBODY, cold=True) == expected
    assert by_budget(None, NOBODY).reason == "student_down"
    down = Decision(route="nobody", reason="student_down", propensity=0.0, withheld=True)
    assert route(POLICY, None, NOBODY) == down


@pytest.mark.parametrize("required", ["forced", "too_long", "unsupported"])
def test_what_is_required_is_the_reason_whatever_else_there_is(
    required: Literal["forced", "too_long", "unsupported"],
) -> None:
    for policy, view in ((None, None), (POLICY, None), (POLICY, SURE), (POLICY, StudentView(confidence=0, novelty=9))):
        decision = who_answers(policy, view, OPEN, audit_ratio=0.05, draw=0.0, required=required)
        assert decision == Decision(route="teacher", reason=required, propensity=1.0)
    for uncertainty, cold in ((None, True), (None, False), (0.0, False)):
        decision = by_budget(uncertainty, OPEN, cold=cold, required=required)
        assert decision == Decision(route="teacher", reason=required, propensity=1.0)


def by_budget(
    uncertainty: float | None,
    budget: BudgetView,
    *,
    cold: bool = False,
    outright: bool = False,
    draw: float = 0.99,
    required: Literal["forced", "too_long", "unsupported"] | None = None,
) -> Decision:
    return decide_by_budget(
        uncertainty, 0.5, budget, cold=cold, outright=outright, audit_ratio=0.05, draw=draw, required=required
    )


@pytest.mark.parametrize(
    ("uncertainty", "outright", "cold", "reason"),
    [
        (0.5, False, False, "budget_margin"),
        (0.4999, False, False, None),
        (0.0, True, False, "bought"),
        (0.9, True, False, "bought"),
        (None, True, False, "student_down"),
        (None, True, True, "cold"),
    ],
)
def test_what_a_budget_buys_and_why(
    uncertainty: float | None,
    outright: bool,  # noqa: FBT001 - a row of the table
    cold: bool,  # noqa: FBT001 - as above
    reason: str | None,
) -> None:
    decision = by_budget(uncertainty, OPEN, cold=cold, outright=outright)
    assert decision.reason == reason
    assert decision.route == ("student" if reason is None else "teacher")
    if uncertainty is not None:
        bound = by_budget(uncertainty, NOBODY, cold=cold, outright=outright)
        assert bound == Decision(route="student", reason=bound.reason, propensity=0.0, withheld=reason is not None)
        assert bound.reason == reason


def test_an_audit_is_drawn_of_a_budget_lanes_own_answers_too() -> None:
    assert by_budget(0.1, OPEN, draw=0.04999) == Decision(route="student", reason="audit", propensity=0.05, audit=True)
    assert by_budget(0.1, OPEN, draw=0.05) == Decision(route="student", reason=None, propensity=0.05)
