"""The gate: may the challenger take the champion's place? Pure, and every reason is in the verdict.

It compares student agreement, never answered agreement: a policy that escalates everything looks harmless there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import structs
from scipy import stats

from store.registry.manifest import Outcome, SliceResult, Verdict
from trainer.judge.evaluate import PairedScores
from trainer.judge.intervals import bca, tango

Phase = Literal["first", "growth", "strict"]
SliceKind = Literal["retained", "hard", "blocking", "watch", "anchor"]

PLANNED_DISCORDANCE: Final = 0.1  # share of rows on which two good versions differ, before any is known
PLANNED_POWER: Final = 0.8
_ENOUGH_TO_ESTIMATE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """What the gate allows."""

    delta: float  # student agreement may fall by less than this
    min_rows: int  # judged rows that the strict test needs; also of a blocking or hard slice to count
    alpha: float = 0.05  # one-sided error of each comparison
    hard_gain: float = 0.0  # least gain on held-out escalations where superiority is not shown
    growth_factor: float = 1.5  # labels since the last strict pass that open a growth phase again
    seed: int = 0  # of the bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A version of the past: how many labels there were, and what the gate said."""

    labels: int
    verdict: Verdict


def rows_needed(delta: float, alpha: float, *, discordance: float = PLANNED_DISCORDANCE) -> int:
    """Pairs that show non-inferiority with 80 % power when the two are equally good (normal approximation)."""
    z = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(PLANNED_POWER))
    return math.ceil(z * z * discordance / delta**2)


def passed_strict(verdict: Verdict, limits: GateLimits) -> bool:
    """Whether a version passed, and would have in the strict phase as well."""
    if verdict.outcome != "pass" or verdict.lower is None:
        return False
    shown = verdict.rows_judged >= limits.min_rows and verdict.lower >= -limits.delta
    return shown and not any(_doubt(part, limits) for part in verdict.slices)


def phase_of(history: Sequence[Judged], *, champion: bool, labels: int, limits: GateLimits) -> Phase:
    """The phase a lane is in: growth until a version has passed strict, and again at 1.5 times the labels of then.

    Args:
        history: the lane's promoted versions, oldest first.
        champion: whether there is one.
        labels: labels there are now.
        limits: the gate's.
    """
    if not champion:
        return "first"
    strict = [past.labels for past in history if passed_strict(past.verdict, limits)]
    if not strict or labels >= limits.growth_factor * strict[-1]:
        return "growth"
    return "strict"


def judge(
    pairs: PairedScores,
    *,
    certified: bool,
    champion_certified: bool,
    limits: GateLimits,
    phase: Phase,
    anchor: PairedScores | None = None,
    certify_rows: int = 0,
) -> Verdict:
    """Decide on the challenger.

    Args:
        pairs: champion and challenger on the judge rows.
        certified: whether the challenger's policy has a threshold.
        champion_certified: whether the champion's has.
        limits: margins, least rows, errors.
        phase: from `phase_of`.
        anchor: the anchor (as "champion") and the challenger, where the anchor is another version.
        certify_rows: confident calibration rows that a threshold would take (for the verdict's `rows_needed`).

    Raises:
        ValueError: phase `growth` or `strict` without a champion.
    """
    if phase != "first" and pairs.champion is None:
        message = f"phase {phase} compares with a champion, and there is none"
        raise ValueError(message)
    slices = [] if pairs.champion is None else _slices(pairs, anchor, limits)
    harm = {part.name: reason for part in slices if (reason := _harm(part, phase, limits))}
    doubts = {part.name: reason for part in slices if phase == "strict" and (reason := _doubt(part, limits))}
    uncertified = [] if certified else [_uncertified(champion_certified=champion_certified)]
    outcome: Outcome = "fail" if harm else "inconclusive" if doubts or uncertified else "pass"
    retained = slices[0] if slices else None
    return Verdict(
        outcome=outcome,
        phase=phase,
        refusals=[*harm.values(), *uncertified, *(doubts[name] for name in doubts if name not in harm)],
        rows_judged=pairs.rows,
        student_agreement=_mean(pairs.challenger, pairs.weights),
        difference=retained.difference if retained else None,
        lower=retained.lower if retained else None,
        upper=retained.upper if retained else None,
        delta=limits.delta,
        rows_needed=_missing_decision(pairs, outcome, phase=phase, certify_rows=certify_rows, limits=limits),
        slices=[structs.replace(part, refused=part.name in harm or part.name in doubts) for part in slices],
    )


def _slices(pairs: PairedScores, anchor: PairedScores | None, limits: GateLimits) -> list[SliceResult]:
    everything = np.ones(pairs.rows, np.bool_)
    parts = [_compare(pairs, everything, "all traffic", "retained", limits)]
    if int(pairs.hard.sum()) >= limits.min_rows:
        parts.append(_compare(pairs, pairs.hard, "held-out escalations", "hard", limits))
    for name, mask in pairs.blocking.items():
        if int(mask.sum()) >= limits.min_rows:
            parts.append(_compare(pairs, mask, name, "blocking", limits))
    for name, mask in pairs.watched.items():
        if int(mask.sum()) >= limits.min_rows:
            parts.append(_compare(pairs, mask, name, "watch", limits))
    if anchor is not None:
        parts.append(_compare(anchor, np.ones(anchor.rows, np.bool_), "the anchor", "anchor", limits))
    return parts


def _compare(
    pairs: PairedScores, mask: npt.NDArray[np.bool_], name: str, kind: SliceKind, limits: GateLimits
) -> SliceResult:
    if pairs.champion is None:
        message = f"slice {name!r}: nothing to compare with"
        raise ValueError(message)
    new, old, weights = pairs.challenger[mask], pairs.champion[mask], pairs.weights[mask]
    clusters = pairs.clusters[mask]
    if len(np.unique(clusters)) == len(clusters) and (not len(weights) or np.ptp(weights) == 0) and _whole(new, old):
        both, neither = int((new * old).sum()), int(((1 - new) * (1 - old)).sum())
        gained, lost = int((new * (1 - old)).sum()), int(((1 - new) * old).sum())
        lower, upper = tango(both, gained, lost, neither, 2 * limits.alpha)
    else:
        lower, upper = bca(new - old, weights, clusters, 2 * limits.alpha, seed=limits.seed)
    champion, challenger = _mean(old, weights) or 0.0, _mean(new, weights) or 0.0
    return SliceResult(
        name=name,
        kind=kind,
        rows=int(mask.sum()),
        champion_agreement=champion,
        challenger_agreement=challenger,
        difference=challenger - champion,
        lower=lower,
        upper=upper,
        delta=limits.delta,
        refused=False,
    )


def _whole(*shares: npt.NDArray[np.float64]) -> bool:
    """Whether every row was agreed with outright or not at all: no teacher said several things to it."""
    return all(bool(np.isin(share, (0.0, 1.0)).all()) for share in shares)


def _harm(part: SliceResult, phase: Phase, limits: GateLimits) -> str | None:
    """Evidence of harm; escalations are hard on purpose, topics are many, and the anchor binds in strict alone."""
    if part.kind in {"hard", "watch"} or (part.kind == "anchor" and phase != "strict") or part.upper >= -limits.delta:
        return None
    return (
        f"{part.name}: student agreement fell by at least {-part.upper:.4f} ({part.champion_agreement:.4f} to "
        f"{part.challenger_agreement:.4f} on {part.rows} rows), {limits.delta} allowed"
    )


def _doubt(part: SliceResult, limits: GateLimits) -> str | None:
    if part.kind == "watch":
        return None
    if part.kind == "hard":
        if part.lower > 0 or part.difference >= limits.hard_gain:
            return None
        return f"{part.name}: gain {part.difference:.4f} on {part.rows} rows, {limits.hard_gain} needed"
    if part.rows < limits.min_rows:
        return f"{part.name}: {part.rows} judged rows, {limits.min_rows} needed"
    if part.lower >= -limits.delta:
        return None
    return f"{part.name}: student agreement may have fallen by {-part.lower:.4f}, {limits.delta} allowed"


def _uncertified(*, champion_certified: bool) -> str:
    kept = "; the champion's is certified and stays" if champion_certified else ""
    return f"no threshold could be certified: the student may not answer on its own{kept}"


def _missing_decision(
    pairs: PairedScores, outcome: Outcome, *, phase: Phase, certify_rows: int, limits: GateLimits
) -> int:
    """Rows that a decision would have taken; 0 when there were enough."""
    if outcome != "inconclusive":
        return 0
    if phase != "strict":
        return certify_rows  # only a missing threshold leaves it undecided there
    discordance = PLANNED_DISCORDANCE
    if pairs.champion is not None and pairs.rows >= _ENOUGH_TO_ESTIMATE:
        discordance = max(float((pairs.champion != pairs.challenger).mean()), 1 / pairs.rows)
    spread = pairs.rows * (pairs.weights**2).sum() / pairs.weights.sum() ** 2 if pairs.rows else 1.0
    return max(math.ceil(rows_needed(limits.delta, limits.alpha, discordance=discordance) * spread), limits.min_rows)


def _mean(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float | None:
    return float((values * weights).sum() / weights.sum()) if len(values) else None
