"""What the demo measures: three agreements, windows, and what is left out of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.demo.measures.measure import (
    Exchange,
    Logged,
    Marked,
    estimate,
    judge,
    judge_all,
    plain,
    requests_of,
    rolling,
    window,
    windows,
)
from tests.ops.one_run import TOTAL, judged, played


def outcome(**changes: object) -> Exchange:
    found: dict[str, object] = {
        "index": 0,
        "at_s": 1.0,
        "item_id": "item",
        "agreed": True,
        "served_by": "student",
        "version": "v1",
        "event_id": None,
    }
    return Exchange(**(found | changes))  # type: ignore[arg-type]


def judged_as(one: Exchange, logged: Logged | None = None, trained: tuple[str, ...] = ()) -> Marked:
    found = judge(one, logged, trained)
    assert found is not None
    return found


def test_the_students_own_answer_counts_in_all_three_agreements() -> None:
    found = judged_as(outcome(agreed=False))
    assert (found.student, found.answered, found.system, found.escalated) == (False, False, False, False)


def test_an_escalated_request_tells_the_students_opinion_from_the_log_and_is_no_answer_of_its_own() -> None:
    found = judged_as(outcome(served_by="teacher"), Logged(agreed=False, reason="low_confidence", said="b"))
    assert (found.student, found.answered, found.system, found.escalated) == (False, None, True, True)


def test_a_cold_request_says_nothing_of_the_student() -> None:
    found = judged_as(outcome(served_by="teacher", version=None), Logged(agreed=None, reason="cold", said=None))
    assert (found.student, found.answered) == (None, None)


@pytest.mark.parametrize("flag", ["withheld", "degraded"])
def test_an_answer_that_the_policy_did_not_trust_is_outside_the_promise(flag: str) -> None:
    found = judged_as(outcome(**{flag: True}))
    assert (found.student, found.answered, found.system) == (True, None, True)


def test_an_audit_is_judged_by_what_the_teacher_really_said() -> None:
    assert judged_as(outcome(), Logged(agreed=False, reason="audit", said="b")).audit is False


def test_a_failed_request_is_judged_by_nobody() -> None:
    assert judge(outcome(agreed=None, served_by=None), None, ()) is None


def test_questions_that_the_version_was_trained_on_are_left_out_and_counted() -> None:
    wrong = judged_as(outcome(agreed=False), trained=("item",))
    found = window([judged_as(outcome()), wrong, wrong], 10)
    assert found is not None
    assert (found.first, found.last, found.n, found.trained) == (10, 12, 1, 2)
    assert found.answered_agreement is not None
    assert found.answered_agreement.value == 1.0


def test_a_window_before_the_first_version_has_no_agreements() -> None:
    cold = judged_as(outcome(served_by="teacher", version=None))
    found = window([cold], 0)
    assert found is not None
    assert found.escalated_ratio == 1.0
    assert [found.student_agreement, found.answered_agreement, found.system_agreement, found.audit_estimate] == 4 * [
        None
    ]


@given(agreed=st.lists(st.sampled_from([True, False, None]), max_size=60))
def test_an_estimate_lies_within_its_interval(agreed: list[bool | None]) -> None:
    found = estimate(agreed)
    known = [one for one in agreed if one is not None]
    if found is None:
        assert not known
    else:
        assert found.n == len(known)
        assert found.value == sum(known) / len(known)
        assert 0 <= found.low <= found.value + 1e-12
        assert found.value <= found.high + 1e-12 <= 1 + 2e-12


@given(length=st.integers(0, 90), count=st.integers(1, 14))
def test_windows_cover_every_request_once(length: int, count: int) -> None:
    found = windows([judged_as(outcome()) for _ in range(length)], count)
    assert [place for one in found for place in range(one.first, one.last + 1)] == list(range(length))
    assert sum(one.n + one.trained for one in found) == length


@given(length=st.integers(0, 90), width=st.integers(1, 40), step=st.integers(1, 20))
def test_rolling_windows_look_back_and_never_ahead(length: int, width: int, step: int) -> None:
    found = rolling([judged_as(outcome()) for _ in range(length)], width=width, step=step)
    assert [one.last + 1 for one in found] == list(range(step, length + 1, step))
    assert all(one.last + 1 - one.first == min(width, one.last + 1) for one in found)


def test_who_answered_adds_up() -> None:
    outcomes, _ = played()
    found = requests_of([*outcomes, outcome(agreed=None, served_by=None, error="HTTP 503")])
    assert found["sent"] == TOTAL + 1 == found["student"] + found["teacher"] + found["failed"]


def test_training_sets_are_looked_up_by_the_version_that_served() -> None:
    outcomes, log = played()
    versions = {one.version for one in outcomes if one.version is not None}
    everything = {version: {one.item_id for one in outcomes} for version in versions}
    left_out = judge_all(outcomes, log, everything)
    assert [one.trained for one in left_out if one is not None] == [one.version is not None for one in outcomes]
    assert not any(one.trained for one in judged() if one is not None)


def test_numbers_are_rounded_for_people() -> None:
    assert plain({"a": [1 / 3, 2], "b": None}) == {"a": [0.3333, 2], "b": None}
