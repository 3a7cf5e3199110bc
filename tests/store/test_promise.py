"""The promise's meter: states, and an interval that holds whenever one looks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.promise import bounds, promise_state


def test_before_any_audit_nothing_is_known() -> None:
    state = promise_state(0, 0, 0.9, 0.95, suspended=False)
    assert (state.state, state.estimate, state.low, state.high) == ("unproven", None, 0.0, 1.0)
    assert state.audits_short is not None
    assert state.audits_short > 0


@pytest.mark.parametrize(
    ("audits", "agreed", "suspended", "expected"),
    [
        (200, 194, False, "held"),
        (200, 194, True, "suspended"),
        (60, 57, False, "unproven"),
        (200, 140, False, "broken"),
    ],
)
def test_each_state_has_its_audits(audits: int, agreed: int, suspended: bool, expected: str) -> None:  # noqa: FBT001
    assert promise_state(audits, agreed, 0.9, 0.95, suspended=suspended).state == expected


def test_audits_short_is_what_it_takes_and_no_more() -> None:
    state = promise_state(60, 57, 0.9, 0.95, suspended=False)
    assert state.audits_short is not None
    enough = 60 + state.audits_short
    assert promise_state(enough, round(enough * 0.95), 0.9, 0.95, suspended=False).low == pytest.approx(0.9, abs=0.002)
    assert promise_state(200, 194, 0.9, 0.95, suspended=False).audits_short == 0
    assert promise_state(200, 150, 0.9, 0.95, suspended=False).audits_short is None


@given(
    n=st.integers(0, 5000), share=st.floats(0, 1), alpha=st.floats(0.001, 0.5), guess=st.sampled_from([0.5, 0.9, 0.99])
)
def test_the_interval_holds_the_estimate_and_stays_in_range(n: int, share: float, alpha: float, guess: float) -> None:
    k = round(n * share)
    low, high = bounds(n, k, alpha, guess=guess)
    assert 0 <= low <= (k / n if n else 0.5) <= high <= 1


@pytest.mark.parametrize("truth", [0.8, 0.9, 0.97])
def test_over_all_looks_together_the_truth_is_missed_no_more_often_than_promised(truth: float) -> None:
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(200):
        agreed = np.cumsum(rng.random(400) < truth)
        looks = [bounds(n, int(agreed[n - 1]), 0.1, guess=0.9) for n in range(1, 401, 16)]
        missed += any(not low <= truth <= high for low, high in looks)
    assert missed / 200 <= 0.1 + 0.043  # two standard errors


@pytest.mark.parametrize(("audits", "agreed"), [(3, 4), (-1, 0), (2, -1)])
def test_impossible_counts_are_refused(audits: int, agreed: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        promise_state(audits, agreed, 0.9, 0.95, suspended=False)
