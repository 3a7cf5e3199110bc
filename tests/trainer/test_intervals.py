"""Intervals against published numbers, brute force and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from trainer.judge.intervals import bca, clopper_pearson_lower, tango, tango_score, wilson

COUNT = st.integers(0, 60)


@given(n=st.integers(1, 200), share=st.floats(0, 1), alpha=st.floats(0.001, 0.5))
def test_clopper_pearson_is_the_smallest_truth_that_the_binomial_test_accepts(
    n: int, share: float, alpha: float
) -> None:
    k = round(n * share)
    lower = clopper_pearson_lower(k, n, alpha)
    if k == 0:
        assert lower == 0
    else:
        assert stats.binom.sf(k - 1, n, lower) == pytest.approx(alpha, rel=1e-6)


def test_wilson_is_the_interval_of_its_score_test() -> None:
    low, high = wilson(45, 60)
    for bound in (low, high):
        assert abs(45 / 60 - bound) / np.sqrt(bound * (1 - bound) / 60) == pytest.approx(1.959964, abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_tango_gives_the_numbers_of_his_paper() -> None:
    low, high = tango(43, 0, 1, 0, 0.05)  # Tango 1998, contact lenses
    assert (round(low, 3), round(high, 3)) == (-0.118, 0.059)


@given(n11=COUNT, n10=COUNT, n01=COUNT, n00=COUNT)
def test_tango_holds_the_difference_and_turns_with_the_sides(n11: int, n10: int, n01: int, n00: int) -> None:
    low, high = tango(n11, n10, n01, n00, 0.1)
    n = n11 + n10 + n01 + n00
    assert -1 <= low <= ((n10 - n01) / n if n else 0) <= high <= 1
    turned_low, turned_high = tango(n11, n01, n10, n00, 0.1)
    assert (turned_low, turned_high) == pytest.approx((-high, -low), abs=1e-6)


@pytest.mark.parametrize(
    ("n11", "n10", "n01", "n00"),
    [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 5, 0, 0), (0, 0, 5, 0), (3, 2, 0, 0), (9, 0, 3, 1), (40, 0, 0, 2)],
)
def test_tango_holds_each_difference_that_its_score_does_not_reject_and_no_other(
    n11: int, n10: int, n01: int, n00: int
) -> None:
    low, high = tango(n11, n10, n01, n00, 0.1)
    assert -1.0 <= low <= high <= 1.0
    for delta in np.linspace(-0.999, 0.999, 1999):
        kept = abs(tango_score(n10, n01, n11 + n10 + n01 + n00, float(delta))) <= 1.6448536269514722
        assert kept == (low <= delta <= high) or min(abs(delta - low), abs(delta - high)) < 1e-6


@pytest.mark.parametrize(
    ("n10", "n01", "n", "delta", "score"),
    [
        (0, 0, 5, 1.0, -np.inf),  # there is no chance left, and it is not what was seen
        (0, 0, 5, -1.0, np.inf),
        (5, 0, 5, 1.0, 0.0),
        (0, 0, 5, 0.0, 0.0),
    ],
)
def test_where_nothing_is_left_to_chance_the_score_is_nothing_or_without_bounds(
    n10: int, n01: int, n: int, delta: float, score: float
) -> None:
    assert tango_score(n10, n01, n, delta) == score


@pytest.mark.parametrize(
    ("n10", "n01", "n", "delta"),
    [(1, 0, 2, 0.1), (1, 1, 3, -0.2), (8, 3, 60, -0.05), (0, 4, 50, 0.02), (12, 12, 100, 0.1)],
)
def test_the_score_uses_the_most_likely_discordance(n10: int, n01: int, n: int, delta: float) -> None:
    def unlikely(p01: float) -> float:
        p10 = p01 + delta
        same = 1 - p10 - p01
        if min(p10, p01, same) <= 0:
            return 1e9
        return -_xlogy(n10, p10) - _xlogy(n01, p01) - _xlogy(n - n10 - n01, same)

    best = optimize.minimize_scalar(
        unlikely, bounds=(max(0, -delta), (1 - delta) / 2), method="bounded", options={"xatol": 1e-10}
    ).x
    expected = (n10 - n01 - n * delta) / np.sqrt(n * (2 * best + delta * (1 - delta)))
    assert tango_score(n10, n01, n, delta) == pytest.approx(expected, rel=1e-4)


def _xlogy(count: float, p: float) -> float:
    return count * float(np.log(p)) if count else 0.0


def test_the_bootstrap_covers_the_truth_of_weighted_clustered_pairs() -> None:
    rng = np.random.default_rng(5)
    covered = [0, 0]
    for trial in range(200):
        clusters = np.repeat(np.arange(150), 2)
        shared = rng.choice([-1.0, 0.0, 1.0], 150, p=[0.12, 0.76, 0.12])
        differences = np.where(rng.random(300) < 0.8, shared[clusters], 0.0)
        weights = rng.choice([1.0, 6.67], 300)
        low, high = bca(differences, weights, clusters, 0.1, seed=trial, draws=400)
        covered[0] += low <= 0
        covered[1] += high >= 0
    assert min(covered) / 200 >= 0.95 - 0.04


def test_ignoring_clusters_would_be_too_sure() -> None:
    rng = np.random.default_rng(6)
    differences = np.repeat(rng.choice([-1.0, 0.0, 1.0], 100, p=[0.2, 0.6, 0.2]), 5)
    clusters = np.repeat(np.arange(100), 5)
    together = bca(differences, np.ones(500), clusters, 0.1, seed=1)
    apart = bca(differences, np.ones(500), np.arange(500), 0.1, seed=1)
    assert together[1] - together[0] > 1.8 * (apart[1] - apart[0])


def test_weights_move_the_bootstrap() -> None:
    differences = np.array([1.0] * 50 + [-1.0] * 50)
    weights = np.array([3.0] * 50 + [1.0] * 50)
    low, high = bca(differences, weights, np.arange(100), 0.1, seed=1)
    assert low < 0.5 < high
    assert low > 0


def test_where_hardly_anything_differs_the_bootstrap_claims_no_certainty() -> None:
    low, high = bca(np.zeros(40), np.ones(40), np.arange(40), 0.1, seed=1)
    assert (low, high) == pytest.approx(tango(40, 0, 0, 0, 0.1))
    assert low < -0.03
    assert bca(np.empty(0), np.empty(0), np.empty(0, np.int64), 0.1, seed=1) == (-1.0, 1.0)


def test_the_same_seed_draws_the_same_interval() -> None:
    differences = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], 300)
    one, two, other = (bca(differences, np.ones(300), np.arange(300), 0.1, seed=seed) for seed in (4, 4, 5))
    assert one == two
    assert one != other


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 1), (3, 40), (45, 60), (200, 200)])
def test_one_proportion_has_the_intervals_of_an_independent_library(k: int, n: int) -> None:
    other = stats.binomtest(k, n).proportion_ci(0.9, method="wilson")
    assert wilson(k, n, 0.1) == pytest.approx((other.low, other.high), abs=1e-9)
    exact = stats.binomtest(k, n, alternative="greater").proportion_ci(0.95, method="exact")
    assert clopper_pearson_lower(k, n, 0.05) == pytest.approx(exact.low, abs=1e-9)


def test_a_proportion_stays_within_0_and_1() -> None:
    assert wilson(0, 3)[0] == 0.0
    assert wilson(3, 3)[1] == 1.0
    assert wilson(0, -1.0) == (0.0, 1.0)
    for n in range(1, 400):
        assert wilson(0, n)[0] >= 0.0
        assert wilson(n, n)[1] <= 1.0


@pytest.mark.parametrize(
    ("n11", "n10", "n01", "n00", "alpha"), [(30, 9, 2, 9, 0.05), (80, 1, 14, 5, 0.1), (100, 0, 0, 0, 0.1)]
)
def test_tango_ends_where_the_score_reaches_the_quantile_of_half_the_error(
    n11: int, n10: int, n01: int, n00: int, alpha: float
) -> None:
    z = float(stats.norm.ppf(1 - alpha / 2))
    low, high = tango(n11, n10, n01, n00, alpha)
    n = n11 + n10 + n01 + n00
    assert tango_score(n10, n01, n, low) == pytest.approx(z, abs=1e-5)
    assert tango_score(n10, n01, n, high) == pytest.approx(-z, abs=1e-5)


@pytest.mark.parametrize("draws", [1, 256, 257])
def test_the_bootstrap_is_made_of_as_many_draws_as_were_asked_for(draws: int) -> None:
    """Of means that lie between .5 and 1, whatever is drawn."""
    differences = np.linspace(0.5, 1.0, 40)
    low, high = bca(differences, np.ones(40), np.arange(40), 0.001, seed=3, draws=draws)
    assert 0.5 <= low <= high <= 1.0
    assert (low == high) == (draws == 1)


def skewed(seed: int, rows: int) -> np.ndarray:
    """Differences whose mean has a skewed distribution, so that bias and acceleration show."""
    return np.random.default_rng(seed).choice([-1.0, 0.0, 0.05, 0.1], rows, p=[0.06, 0.3, 0.34, 0.3])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_bootstrap_has_the_bca_interval_of_an_independent_library(seed: int) -> None:
    differences = skewed(seed, 60)
    other = stats.bootstrap(
        (differences,), np.mean, confidence_level=0.9, n_resamples=40_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = bca(differences, np.ones(60), np.arange(60), 0.1, seed=0, draws=40_000)
    width = other.high - other.low
    assert low == pytest.approx(other.low, abs=0.03 * width)
    assert high == pytest.approx(other.high, abs=0.03 * width)
    plain = stats.bootstrap(
        (differences,), np.mean, confidence_level=0.9, n_resamples=40_000, method="percentile", rng=0
    )
    assert abs(plain.confidence_interval.low - other.low) > 0.04 * width  # so that its corrections are seen at all


@pytest.mark.parametrize("seed", [1, 2])
def test_draws_that_equal_the_estimate_are_halved_as_an_independent_library_does(seed: int) -> None:
    differences = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], 30, p=[0.1, 0.5, 0.4])
    other = stats.bootstrap(
        (differences,), np.mean, confidence_level=0.9, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    found = bca(differences, np.ones(30), np.arange(30), 0.1, seed=0, draws=20_000)
    assert found == pytest.approx((other.low, other.high), abs=1e-9)  # both are among the few values that means have


def test_rows_that_are_all_alike_have_an_interval_of_one_point() -> None:
    assert bca(np.full(40, 0.5), np.ones(40), np.arange(40), 0.1, seed=1) == (0.5, 0.5)


@pytest.mark.parametrize(("discordant", "counted"), [(9, True), (10, False)])
def test_from_ten_that_differ_on_the_bootstrap_knows_enough(discordant: int, *, counted: bool) -> None:
    differences = np.where(np.arange(200) < discordant, -1.0, 0.0)
    score = tango(200 - discordant, 0, discordant, 0, 0.1)
    found = bca(differences, np.ones(200), np.arange(200), 0.1, seed=1)
    assert (found == pytest.approx(score, abs=1e-6)) == counted


@pytest.mark.parametrize("seed", [4, 5])
def test_with_weights_and_clusters_it_is_the_bca_interval_of_a_ratio_of_sums(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clusters = np.sort(rng.integers(0, 60, 150))
    weights = rng.choice([1.0, 3.0, 20.0], 150, p=[0.6, 0.3, 0.1])
    differences = skewed(seed, 60)[clusters] * rng.choice([0.5, 1.0], 150)
    found = np.unique(clusters)
    mass = np.array([weights[clusters == one].sum() for one in found])
    sums = np.array([(weights * differences)[clusters == one].sum() for one in found])
    other = stats.bootstrap(
        (sums, mass),
        lambda s, m, axis: s.sum(axis=axis) / m.sum(axis=axis),
        paired=True,
        vectorized=True,
        confidence_level=0.9,
        n_resamples=40_000,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    low, high = bca(differences, weights, clusters, 0.1, seed=0, draws=40_000)
    assert low == pytest.approx(other.low, abs=0.03 * (other.high - other.low))
    assert high == pytest.approx(other.high, abs=0.03 * (other.high - other.low))


def test_one_heavy_cluster_that_differs_is_one_observation() -> None:
    """Kish 1965: sum(w)^2 / sum(w^2) rows of equal weight; what differs counts for no more than it is made of."""
    mass = np.array([1.0] * 50 + [30.0])
    differences = np.array([0.0] * 50 + [-1.0])
    low, high = bca(differences, mass, np.arange(51), 0.1, seed=1)
    effective = 80.0 / 30.0  # one observation that is 30 of 80
    assert (low, high) == pytest.approx(tango(effective - 1.0, 0.0, 1.0, 0.0, 0.1))


def test_few_that_differ_are_counted_on_their_own_side_at_kishs_size() -> None:
    mass = np.array([1.0] * 90 + [2.0] * 10)
    differences = np.zeros(100)
    differences[[0, 1, 2, 90]] = [1.0, 1.0, 1.0, -1.0]  # three of weight 1 for, one of weight 2 against
    effective = 110.0**2 / (90 + 40)
    effective = min(effective, (5.0**2 / (3 + 4)) * 110.0 / 5.0)
    plus, minus = 3.0 * effective / 110.0, 2.0 * effective / 110.0
    expected = tango(effective - plus - minus, plus, minus, 0.0, 0.1)
    assert bca(differences, mass, np.arange(100), 0.1, seed=1) == pytest.approx(expected)
