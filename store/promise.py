"""The promise with a meter: is answered agreement at the target, as far as the audits show, whenever one looks?

The interval is a confidence sequence: it holds for all numbers of audits at once, so looking every minute costs nothing
(Robbins 1970). For a proportion, a mixture over a beta prior is closed in (n, k); the prior's mean is the target, where
a lane is expected to be: at target .90 and agreement .97 that takes 119 audits instead of the uniform prior's 176.
"""

import math
from collections.abc import Callable
from typing import Final, Literal

import msgspec

MAX_AUDITS: Final = 1 << 40
_EDGE: Final = 1e-12
_HALVINGS: Final = 50  # of an interval within [0, 1]: to the last bits of a float


State = Literal["held", "suspended", "unproven", "broken"]


class PromiseState(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said of a promise now."""

    state: State
    estimate: float | None  # agreement among audits; None before the first
    low: float  # bounds of the confidence sequence
    high: float
    n: int  # audits
    audits_short: int | None  # more audits that would prove it at the present estimate; None: below the target


def promise_state(audits: int, agreed: int, target: float, confidence: float, *, suspended: bool) -> PromiseState:
    """The state of a promise of `target` answered agreement with `confidence`.

    `held`: the lower bound is at or above the target; `broken`: the upper bound is below it; `suspended`: the budget
    binds, so some answers went out that nobody vouches for, whatever the audits say; else `unproven`.

    Raises:
        ValueError: more agreed than audits, or a target or confidence outside (0, 1).
    """
    if not 0 <= agreed <= audits or not 0 < target < 1 or not 0 < confidence < 1:
        message = f"{agreed} of {audits} audits, target {target}, confidence {confidence}: out of range"
        raise ValueError(message)
    low, high = bounds(audits, agreed, 1 - confidence, guess=target)
    state: State = "unproven"
    if suspended:
        state = "suspended"
    elif low >= target:
        state = "held"
    elif high < target:
        state = "broken"
    return PromiseState(
        state=state,
        estimate=agreed / audits if audits else None,
        low=low,
        high=high,
        n=audits,
        audits_short=_audits_short(audits, agreed, target, 1 - confidence),
    )


def bounds(n: int, k: int, alpha: float, *, guess: float) -> tuple[float, float]:
    """The 1 - alpha confidence sequence of a proportion after n trials with k successes: all p with wealth < 1/alpha.

    Args:
        n: trials.
        k: successes.
        alpha: probability that the truth is ever outside.
        guess: mean of the prior, fixed beforehand; a bad one widens the interval and harms nothing else.
    """
    if n == 0:
        return 0.0, 1.0

    def excess(p: float) -> float:
        return _log_wealth(n, k, p, guess) + math.log(alpha)

    middle = k / n
    low = _root(excess, _EDGE, middle) if middle > _EDGE and excess(_EDGE) > 0 else 0.0
    high = _root(excess, 1 - _EDGE, middle) if middle < 1 - _EDGE and excess(1 - _EDGE) > 0 else 1.0
    return low, high


def _root(excess: Callable[[float], float], outside: float, inside: float) -> float:
    """Where the excess changes its sign, by bisection: it is positive outside, and negative inside."""
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if excess(middle) > 0 else (outside, middle)
    return inside


def _log_wealth(n: float, k: float, p: float, guess: float) -> float:
    """Log of the mixture's likelihood over that of p: where p is the truth its exponential is a martingale from 1.

    By the standard library alone: `status` asks, and scipy takes a second of a processor to import.
    """
    a = guess / (1 - guess)
    likelihood = (k * math.log(p) if k else 0.0) + ((n - k) * math.log1p(-p) if n > k else 0.0)
    return _log_beta(k + a, n - k + 1) - _log_beta(a, 1) - likelihood


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _audits_short(n: int, k: int, target: float, alpha: float) -> int | None:
    if n and k / n <= target:
        return None
    share = k / n if n else 1.0

    def proven(more: int) -> bool:
        return _log_wealth(n + more, k + more * share, target, target) >= -math.log(alpha)

    if proven(0):
        return 0
    enough = 1
    while not proven(enough):
        enough *= 2
        if enough > MAX_AUDITS:
            return None
    short = enough // 2
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if proven(middle) else (middle, enough)
    return enough
