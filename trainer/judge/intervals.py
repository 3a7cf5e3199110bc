"""Intervals: exact for one proportion, score and bootstrap for the paired difference of two students.

Sources: Clopper and Pearson 1934; Wilson 1927; Tango 1998 (paired difference, score interval); Efron 1987 (BCa).
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq
from scipy.special import betaincinv

Floats = npt.NDArray[np.float64]

FEW_DISCORDANT: Final = 10
_BLOCK_DRAWS: Final = 256


def clopper_pearson_lower(k: int, n: int, alpha: float) -> float:
    """The exact lower 1 - alpha bound of a proportion, k of n; 0 where k is 0."""
    return float(betaincinv(k, n - k + 1, alpha)) if k else 0.0


def wilson(k: float, n: float, alpha: float = 0.05) -> tuple[float, float]:
    """Wilson's two-sided 1 - alpha interval of a proportion; (0, 1) where n is 0."""
    if n <= 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf(1 - alpha / 2))
    centre = (k + z * z / 2) / (n + z * z)
    half = z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return max(0.0, centre - half), min(1.0, centre + half)


def tango(n11: float, n10: float, n01: float, n00: float, alpha: float) -> tuple[float, float]:
    """The two-sided 1 - alpha score interval of p10 - p01 on paired counts.

    Args:
        n11: both agree.
        n10: only the first (the challenger) agrees.
        n01: only the second (the champion) agrees.
        n00: neither agrees.
        alpha: of both sides together.
    """
    n = n11 + n10 + n01 + n00
    if n <= 0:
        return -1.0, 1.0
    z = float(stats.norm.ppf(1 - alpha / 2))
    difference = (n10 - n01) / n

    def low_side(delta: float) -> float:
        return tango_score(n10, n01, n, delta) - z

    def high_side(delta: float) -> float:
        return tango_score(n10, n01, n, delta) + z

    edge = 1 - 1e-9
    low = -1.0 if low_side(-edge) <= 0 else float(brentq(low_side, -edge, difference, xtol=1e-10))
    high = 1.0 if high_side(edge) >= 0 else float(brentq(high_side, difference, edge, xtol=1e-10))
    return low, high


def tango_score(n10: float, n01: float, n: float, delta: float) -> float:
    """Tango's score statistic of p10 - p01 = delta: standard normal where that is true; falls as delta grows."""
    b = -n10 - n01 + (2 * n - n10 + n01) * delta
    c = -n01 * delta * (1 - delta)
    q01 = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)  # p01, most likely given delta
    variance = n * (2 * q01 + delta * (1 - delta))
    surprise = n10 - n01 - n * delta
    if variance <= 0:
        return 0.0 if surprise == 0 else math.copysign(math.inf, surprise)
    return surprise / math.sqrt(variance)


def bca(
    differences: Floats, weights: Floats, clusters: npt.NDArray[np.int64], alpha: float, *, seed: int, draws: int = 2000
) -> tuple[float, float]:
    """The two-sided 1 - alpha BCa interval of a weighted mean, whole clusters drawn with replacement.

    Where fewer than ten clusters differ from zero the bootstrap knows too little (with none it would say "exactly 0"):
    the score interval on effective counts (Kish) answers instead.

    Args:
        differences: [rows], in [-1, 1]: challenger's agreement minus champion's.
        weights: [rows], above 0.
        clusters: [rows], which rows belong together.
        alpha: of both sides together.
        seed: of the draws.
        draws: bootstrap samples.
    """
    _, index = np.unique(clusters, return_inverse=True)
    mass = np.asarray(np.bincount(index, weights), np.float64)
    sums = np.asarray(np.bincount(index, weights * differences), np.float64)
    if np.count_nonzero(sums) < FEW_DISCORDANT:
        return _effective_tango(sums, mass, alpha)
    estimate = sums.sum() / mass.sum()
    drawn = _drawn_means(sums, mass, np.random.default_rng(seed), draws)
    below = (np.count_nonzero(drawn < estimate) + 0.5 * np.count_nonzero(drawn == estimate)) / draws
    bias = stats.norm.ppf(min(max(below, 0.5 / draws), 1 - 0.5 / draws))
    left = (sums.sum() - sums) / (mass.sum() - mass)
    spread = left.mean() - left
    scale = float((spread**2).sum()) ** 1.5
    skew = float((spread**3).sum()) / (6 * scale) if scale > 0 else 0.0
    z = np.asarray(stats.norm.ppf([alpha / 2, 1 - alpha / 2]), np.float64)
    levels = np.asarray(stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z))), np.float64)
    low, high = np.quantile(drawn, levels)
    return float(low), float(high)


def _effective_tango(sums: Floats, mass: Floats, alpha: float) -> tuple[float, float]:
    if not len(mass):
        return -1.0, 1.0
    effective = mass.sum() ** 2 / (mass**2).sum()
    if sums.any():  # a single heavy cluster that differs is one observation, however many rows it has
        discordant = np.abs(sums).sum() ** 2 / (sums**2).sum()
        effective = min(effective, discordant * mass.sum() / np.abs(sums).sum())
    scale = effective / mass.sum()
    plus, minus = np.clip(sums, 0, None).sum() * scale, np.clip(-sums, 0, None).sum() * scale
    return tango(effective - plus - minus, plus, minus, 0.0, alpha)


def _drawn_means(sums: Floats, mass: Floats, rng: np.random.Generator, draws: int) -> Floats:
    n = len(mass)
    blocks = []
    for start in range(0, draws, _BLOCK_DRAWS):
        chosen = rng.integers(0, n, (min(_BLOCK_DRAWS, draws - start), n))
        blocks.append(sums[chosen].sum(axis=1) / mass[chosen].sum(axis=1))
    return np.concatenate(blocks)
