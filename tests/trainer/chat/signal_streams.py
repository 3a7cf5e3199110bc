"""Simulated streams of chat whose truth is known: what a student's signals are, and how likely it is right then.

No text and no model: a question has a hidden ease, from which its four signals follow with noise, and the chance that
the teacher says the same. That chance is no logistic function of the signals: a part of the questions looks easy and is
not. Rows reach the calibration as in service: from a cold lane all of them, later what an earlier confidence trusted
with the probability of an audit, and the weight of that.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from store.policy import Policy
from trainer.judge.calibrate import calibrate, novelty_limit, uncertified
from trainer.judge.scored import Scored
from trainer.learn.chat.head import Outcomes, fit_confidence

Floats = npt.NDArray[np.float64]

CONFIDENCE: Final = 0.95
AUDIT_RATIO: Final = 0.05
NEIGHBOURS: Final = 10
_TRUTH_ROWS: Final = 50_000
_TRUSTED: Final = 0.9  # by the version in service


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Streams of one kind."""

    name: str
    target: float
    asked: int = 600  # questions whose answers the confidence is fitted on
    held: int = 400  # questions that could calibrate, before the draw of audits
    ease: float = 1.0  # mean; more: more is right
    traps: float = 0.05  # share of the questions that look easy and are not
    seen: Literal["all", "audits"] = "all"


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """Questions with what is known of them."""

    signals: Floats  # [n, 4] in the order of `SIGNALS`
    chance: Floats  # [n] that the teacher says the same
    agreed: Floats  # [n] whether it did

    @staticmethod
    def draw(kind: Kind, count: int, rng: np.random.Generator) -> "Questions":
        """So many."""
        ease = rng.normal(kind.ease, 1.5, count)
        trap = rng.random(count) < kind.traps
        seems = ease + np.where(trap, 2.0, 0.0) + rng.normal(0, 0.7, (4, count))
        tokens = rng.integers(3, 40, count)
        least = 1 / (1 + np.exp(-seems[1]))
        signals = np.column_stack(
            [
                -tokens * 0.3 * np.log1p(np.exp(-seems[0])) / 2,
                least,
                rng.binomial(NEIGHBOURS, 1 / (1 + np.exp(-seems[2]))) / NEIGHBOURS,
                np.clip(0.4 - 0.08 * seems[3], 0.0, 2.0),
            ]
        )
        chance = np.where(trap, 0.3, 1.0) / (1 + np.exp(-2.0 * ease))
        return Questions(signals=signals, chance=chance, agreed=(rng.random(count) < chance).astype(np.float64))

    def of(self, places: npt.NDArray[np.intp]) -> "Questions":
        """Some of them."""
        return replace(self, signals=self.signals[places], chance=self.chance[places], agreed=self.agreed[places])


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of one stream's promise."""

    threshold: float | None
    coverage: float  # of all questions to come
    agreement: float | None  # true, of what is answered; None: nothing is

    def broken(self, target: float) -> bool:
        """Whether it answers and keeps less than it promised."""
        return self.agreement is not None and self.agreement < target


def follow(kind: Kind, seed: int, *, plug_in: bool = False) -> Found:
    """One stream through the fit of its confidence and the calibration, and then what is true of the policy.

    Args:
        kind: of the stream.
        seed: of everything.
        plug_in: instead of what the product does, the lowest threshold that the rows themselves agree with.
    """
    rng = np.random.default_rng([seed, 17])
    asked, held = Questions.draw(kind, kind.asked, rng), Questions.draw(kind, kind.held, rng)
    weight = np.ones(kind.held)
    if kind.seen == "audits":
        before = fit_confidence(outcomes(Questions.draw(kind, kind.asked, rng)))
        weight = np.where(before.of(held.signals) >= _TRUSTED, 1 / AUDIT_RATIO, 1.0)
        places = np.flatnonzero(rng.random(kind.held) < 1 / weight)
        held, weight = held.of(places), weight[places]
    confidence = fit_confidence(outcomes(asked))
    novelty = held.signals[:, 3]
    start = uncertified(kind.target, CONFIDENCE, novelty_threshold=novelty_limit(novelty, weight))
    scored = Scored(
        confidence=confidence.of(held.signals),
        novelty=novelty,
        agreed=held.agreed,
        weight=weight,
        cluster=np.arange(len(weight)),
    )
    policy = plugged_in(scored, start) if plug_in else calibrate(scored, start, seed=seed)
    return true_of(policy, Questions.draw(kind, _TRUTH_ROWS, rng), confidence.of)


def outcomes(questions: Questions) -> Outcomes:
    """As the head is fitted on them."""
    return Outcomes(signals=questions.signals, agreed=questions.agreed, weight=np.ones(len(questions.agreed)))


def plugged_in(scored: Scored, start: Policy) -> Policy:
    """The threshold that looks good on the rows that it is chosen by."""
    order = np.argsort(-scored.confidence)
    weight = scored.weight[order]
    share = np.cumsum(scored.agreed[order] * weight) / np.cumsum(weight)
    good = np.flatnonzero(share >= start.target)
    threshold = None if not len(good) else float(scored.confidence[order][good[-1]])
    return msgspec.structs.replace(start, threshold=threshold)


def true_of(policy: Policy, questions: Questions, confidence: Callable[[Floats], Floats]) -> Found:
    """What a policy does with questions to come, by their true chances."""
    if policy.threshold is None or policy.novelty_threshold is None:
        return Found(threshold=None, coverage=0.0, agreement=None)
    chances = confidence(questions.signals)
    answered = (chances >= policy.threshold) & (questions.signals[:, 3] <= policy.novelty_threshold)
    return Found(
        threshold=policy.threshold,
        coverage=float(answered.mean()),
        agreement=float(questions.chance[answered].mean()) if answered.any() else None,
    )
