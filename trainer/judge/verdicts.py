"""Calibrate a challenger, compare it with champion and anchor on the same rows, and judge.

A lane that promises something is judged on held-out rows. One that only has a budget holds none out: there champion and
challenger are compared on the rows that came after the champion was trained, the challenger cross-fitted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from store.policy import Policy
from store.registry.manifest import Verdict
from store.student.classify import Predictions, Student
from store.student.encoder import FloatArray
from trainer.judge.calibrate import UNKNOWN_LABEL, calibrate, evened, rows_to_certify
from trainer.judge.evaluate import PairedScores, paired
from trainer.judge.gate import Judged, Phase, judge, phase_of
from trainer.learn.features import BaseEncoder
from trainer.snapshot import Row, Snapshot, Split, trials
from trainer.work import CycleSettings, LaneTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A version in memory, with the ids it was trained on."""

    student: Student
    trained: frozenset[str]

    @property
    def certified(self) -> bool:
        """Whether its policy has a threshold."""
        return self.student.policy is not None and self.student.policy.threshold is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The versions before this cycle's, as far as a verdict and a fit need them."""

    champion: Rival | None
    anchor: Rival | None  # where it is another version than the champion
    history: Sequence[Judged]  # of the promoted versions, oldest first
    label_maps: Mapping[str, Sequence[str]]  # by version id


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """The snapshot with the base encoder's features of its rows, [rows, features]."""

    snapshot: Snapshot
    base: BaseEncoder
    features: FloatArray
    _tuned: dict[tuple[int, int], FloatArray] = field(default_factory=dict, repr=False)  # (member, row) -> logits

    def predict(self, student: Student, rows: Sequence[int]) -> Predictions:
        """A student's answers to some rows, from the kept features where it shares the base; no row is read twice."""
        if student.encoder.fingerprint != self.base.encoder.fingerprint:
            return student.predict([self.snapshot.rows[row].text for row in rows])
        return student.predict_from(self.features[list(rows)], self._logits(student, rows))

    def rows_of(self, split: Split) -> list[int]:
        """The places of one split's rows."""
        return [place for place, row in enumerate(self.snapshot.rows) if row.split == split]

    def _logits(self, student: Student, rows: Sequence[int]) -> FloatArray | None:
        if student.tuned is None:
            return None
        member = id(student.tuned)
        new = [row for row in rows if (member, row) not in self._tuned]
        found = student.tuned_logits([self.snapshot.rows[row].text for row in new]) if new else None
        if found is not None:
            self._tuned.update(((member, row), logits) for row, logits in zip(new, found, strict=True))
        empty = np.empty((0, student.tuned.labels), np.float32)
        return np.stack([self._tuned[member, row] for row in rows]) if rows else empty


CrossFitted = Callable[[Sequence[int]], FloatArray]
"""Probabilities, [rows, labels], for the rows at these places from a fit that saw none of them."""


def decide(
    training: LaneTraining,
    settings: CycleSettings,
    frozen: Frozen,
    challenger: Rival,
    lineage: Lineage,
    cross_fitted: CrossFitted | None,
) -> tuple[Policy, Verdict, bool]:
    """Calibrate, compare with the champion and the anchor, and judge.

    Args:
        training: the lane's.
        settings: the cycle's.
        frozen: its rows.
        challenger: the student to judge, without a policy.
        lineage: what it is compared with.
        cross_fitted: where nothing is held out, how the challenger would have answered its own training rows; a
            submitted candidate has none and answers for itself.

    Returns:
        The policy to ship, the verdict, and whether this version has the best lower bound so far.
    """
    if training.policy == "budget":
        policy = _promises_nothing(training)
        return policy, _judge_new_rows(settings, frozen, challenger, lineage, cross_fitted), False
    policy = _calibrate(training, settings, frozen, challenger, lineage.champion)
    anchored = _paired(frozen, challenger, lineage.anchor) if lineage.anchor is not None else None
    verdict = judge(
        _paired(frozen, challenger, lineage.champion),
        certified=policy.threshold is not None,
        champion_certified=lineage.champion is not None and lineage.champion.certified,
        limits=settings.limits,
        phase=phase_of(
            lineage.history,
            champion=lineage.champion is not None,
            labels=len(frozen.snapshot.rows),
            limits=settings.limits,
        ),
        anchor=anchored,
        certify_rows=rows_to_certify(training.target, training.confidence),
    )
    marks = [part for part in verdict.slices if part.kind == ("anchor" if anchored is not None else "retained")]
    return policy, verdict, all(mark.difference > 0 for mark in marks)


def new_rows(snapshot: Snapshot, champion: Rival) -> list[int]:
    """Places of the rows that the champion was not trained on, nor on anything linked to them."""
    seen = {snapshot.clusters[item_id] for item_id in champion.trained if item_id in snapshot.clusters}
    return [place for place, row in enumerate(snapshot.rows) if row.cluster not in seen]


def _calibrate(
    training: LaneTraining, settings: CycleSettings, frozen: Frozen, challenger: Rival, champion: Rival | None
) -> Policy:
    places = trials(frozen.snapshot, challenger.trained)
    rows = [frozen.snapshot.rows[place] for place in places]
    index = {label: number for number, label in enumerate(challenger.student.labels)}
    answers = frozen.predict(challenger.student.with_policy(None), places)
    weights = np.array([row.mass for row in rows], np.float64)
    if champion is not None and (policy := champion.student.policy) is not None and policy.threshold is not None:
        before = frozen.predict(champion.student, places)
        trusted = before.probs.max(axis=1, initial=0.0) >= policy.threshold
        if policy.novelty_threshold is not None:
            trusted &= before.novelty <= policy.novelty_threshold
        weights = evened(weights, trusted)
    return calibrate(
        answers.probs,
        np.array([index.get(row.label, UNKNOWN_LABEL) for row in rows], np.int64),
        weights,
        answers.novelty,
        target=training.target,
        confidence=training.confidence,
        seed=settings.seed,
        novelty_quantile=settings.novelty_quantile,
    )


def _paired(frozen: Frozen, challenger: Rival, other: Rival | None) -> PairedScores:
    places = frozen.rows_of("judge")
    return paired(
        frozen.predict(other.student, places).probs if other is not None else None,
        frozen.predict(challenger.student, places).probs,
        [frozen.snapshot.rows[place] for place in places],
        champion_labels=other.student.labels if other is not None else (),
        challenger_labels=challenger.student.labels,
        trained=challenger.trained | (other.trained if other is not None else frozenset()),
        clusters=frozen.snapshot.clusters,
    )


def _judge_new_rows(
    settings: CycleSettings,
    frozen: Frozen,
    challenger: Rival,
    lineage: Lineage,
    cross_fitted: CrossFitted | None,
) -> Verdict:
    """Only harm refuses here; a fine-tuned member that does harm is voted down in service, by its weight."""
    champion = lineage.champion
    places = new_rows(frozen.snapshot, champion) if champion is not None else []
    probs = (cross_fitted or (lambda wanted: frozen.predict(challenger.student, wanted).probs))(places)
    pairs = paired(
        frozen.predict(champion.student, places).probs if champion is not None else None,
        probs,
        [_each_once(frozen.snapshot.rows[place]) for place in places],
        champion_labels=champion.student.labels if champion is not None else (),
        challenger_labels=challenger.student.labels,
        trained=frozenset(),
        clusters={},
    )
    phase: Phase = "first" if champion is None else "growth"
    return judge(pairs, certified=True, champion_certified=True, limits=settings.limits, phase=phase)


def _each_once(row: Row) -> Row:
    """The row as it is compared where only hard questions are paid for: by itself, not as the traffic it stands for."""
    return replace(row, requests=1.0)


def _promises_nothing(training: LaneTraining) -> Policy:
    """The policy of a version in a lane that only has a budget: if the lane promised again, it would answer nothing."""
    return Policy(
        temperature=1.0,
        threshold=None,
        novelty_threshold=None,
        target=training.target,
        confidence_level=training.confidence,
        coverage_ratio=0.0,
        rows=0,
        lower=0.0,
    )
