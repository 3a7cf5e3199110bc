"""The promise's meter: states, and an interval that holds whenever one looks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

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
        (60, 52, False, "unproven"),  # the estimate is below the target, and that may be chance
        (200, 140, False, "broken"),
        (200, 140, True, "suspended"),
        (0, 0, True, "suspended"),
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


@pytest.mark.parametrize(("n", "k"), [(1, 0), (1, 1), (12, 12), (60, 52), (200, 194), (300, 150)])
@pytest.mark.parametrize("guess", [0.5, 0.9])
def test_the_bounds_are_where_the_wealth_of_the_mixture_by_quadrature_reaches_one_over_alpha(
    n: int, k: int, guess: float
) -> None:
    """Robbins 1970: the mean likelihood over a prior beta(a, 1), whose mean is the guess, against that of one truth."""
    prior = stats.beta(guess / (1 - guess), 1)
    likeliest = k / n

    def relative(p: float) -> float:
        return float(stats.binom.pmf(k, n, p) / stats.binom.pmf(k, n, likeliest))

    mixed = integrate.quad(lambda p: relative(p) * prior.pdf(p), 0, 1, points=[likeliest], limit=200)[0]
    low, high = bounds(n, k, 0.05, guess=guess)
    if low > 0:
        assert mixed / relative(low) == pytest.approx(20.0, rel=1e-4)
    else:
        assert mixed / max(relative(1e-9), 1e-300) < 20.0
    if high < 1:
        assert mixed / relative(high) == pytest.approx(20.0, rel=1e-4)
    else:
        assert mixed / max(relative(1 - 1e-9), 1e-300) < 20.0


def test_at_97_of_100_a_promise_of_90_is_19_audits_short_and_the_state_is_that_of_its_interval() -> None:
    state = promise_state(100, 97, 0.9, 0.95, suspended=False)
    assert (state.audits_short, state.estimate, state.n) == (19, 0.97, 100)
    assert (state.low, state.high) == bounds(100, 97, 0.05, guess=0.9)


@given(n=st.integers(0, 400), share=st.floats(0, 1), target=st.floats(0.5, 0.99), suspended=st.booleans())
def test_a_promise_is_held_above_the_target_broken_below_it_and_else_unproven(
    n: int, share: float, target: float, *, suspended: bool
) -> None:
    k = round(n * share)
    state = promise_state(n, k, target, 0.9, suspended=suspended)
    low, high = bounds(n, k, 1 - 0.9, guess=target)
    expected = "held" if low >= target else "broken" if high < target else "unproven"
    assert state.state == ("suspended" if suspended else expected)
    assert (state.audits_short is None) == (n > 0 and k / n <= target)


@pytest.mark.parametrize("n", [60, 150, 400])
def test_one_agreement_less_than_the_first_that_is_held_leaves_the_lower_bound_below_the_target(n: int) -> None:
    states = [promise_state(n, k, 0.9, 0.95, suspended=False).state for k in range(n + 1)]
    held, unproven = states.index("held"), states.index("unproven")
    assert states == ["broken"] * unproven + ["unproven"] * (held - unproven) + ["held"] * (n + 1 - held)
    (below, _), (low, _) = (bounds(n, k, 0.05, guess=0.9) for k in (held - 1, held))
    (_, high), (_, above) = (bounds(n, k, 0.05, guess=0.9) for k in (unproven - 1, unproven))
    assert below < 0.9 <= low
    assert high < 0.9 <= above


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
