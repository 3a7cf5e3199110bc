"""Calibrate a challenger, compare it with champion and anchor on the same held-out rows, and judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from store.policy import Policy
from store.registry.manifest import Verdict
from store.registry.versions import OpenVersion, Registry, Versions
from store.student.encoder import FloatArray
from store.student.student import Predictions, Student
from trainer.judge.calibrate import UNKNOWN_LABEL, calibrate, evened, rows_to_certify
from trainer.judge.evaluate import PairedScores, paired
from trainer.judge.gate import Judged, judge, phase_of
from trainer.learn.features import BaseEncoder
from trainer.snapshot import Snapshot, Split, trials
from trainer.work import CycleWork

SNAPSHOT_NAME: Final = "snapshot.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version in memory, with the ids it was trained on."""

    opened: OpenVersion
    student: Student
    trained: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """The snapshot with the base encoder's features of its rows, [rows, features]."""

    snapshot: Snapshot
    base: BaseEncoder
    features: FloatArray

    def predict(self, student: Student, rows: Sequence[int]) -> Predictions:
        """A student's answers to some rows, from the kept features where it shares the base."""
        texts = [self.snapshot.rows[row].text for row in rows]
        if student.encoder.fingerprint != self.base.encoder.fingerprint:
            return student.predict(texts)
        return student.predict_from(self.features[list(rows)], student.tuned_logits(texts))

    def rows_of(self, split: Split) -> list[int]:
        """The places of one split's rows."""
        return [place for place, row in enumerate(self.snapshot.rows) if row.split == split]


def decide(
    work: CycleWork,
    registry: Registry,
    frozen: Frozen,
    student: Student,
    trained: frozenset[str],
    champion: Version | None,
) -> tuple[Policy, Verdict, bool]:
    """Calibrate, compare with the champion and the anchor, and judge."""
    training, limits = work.training, work.settings.limits
    policy = _calibrate(work, frozen, student, trained, champion)
    pairs = _paired(frozen, student, trained, champion)
    anchor = None
    if work.anchor is not None and work.anchor != work.champion:
        anchor = open_version(registry.versions(training.lane), work.anchor, work)
    anchored = _paired(frozen, student, trained, anchor) if anchor is not None else None
    verdict = judge(
        pairs,
        certified=policy.threshold is not None,
        champion_certified=_certified(champion),
        limits=limits,
        phase=phase_of(
            _history(registry, work), champion=champion is not None, labels=len(frozen.snapshot.rows), limits=limits
        ),
        anchor=anchored,
        certify_rows=rows_to_certify(training.target, training.confidence),
    )
    marks = [part for part in verdict.slices if part.kind == ("anchor" if anchored is not None else "retained")]
    return policy, verdict, all(mark.difference > 0 for mark in marks)


def _calibrate(
    work: CycleWork, frozen: Frozen, student: Student, trained: frozenset[str], champion: Version | None
) -> Policy:
    places = trials(frozen.snapshot, trained)
    rows = [frozen.snapshot.rows[place] for place in places]
    index = {label: number for number, label in enumerate(student.labels)}
    answers = frozen.predict(student.with_policy(None), places)
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
        target=work.training.target,
        confidence=work.training.confidence,
        seed=work.settings.seed,
        novelty_quantile=work.settings.novelty_quantile,
    )


def _paired(frozen: Frozen, student: Student, trained: frozenset[str], other: Version | None) -> PairedScores:
    places = frozen.rows_of("judge")
    return paired(
        frozen.predict(other.student, places).probs if other is not None else None,
        frozen.predict(student, places).probs,
        [frozen.snapshot.rows[place] for place in places],
        champion_labels=other.student.labels if other is not None else (),
        challenger_labels=student.labels,
        trained=trained | (other.trained if other is not None else frozenset()),
        clusters=frozen.snapshot.clusters,
    )


def _history(registry: Registry, work: CycleWork) -> list[Judged]:
    """The promoted versions, oldest first, with their labels and verdicts."""
    versions = registry.versions(work.training.lane)
    promoted = [move.version for move in registry.moves(work.training.lane).read() if move.kind == "promote"]
    manifests = [versions.manifest(version) for version in promoted if version is not None]
    return [
        Judged(labels=manifest.snapshot.rows, verdict=manifest.verdict)
        for manifest in manifests
        if manifest.snapshot is not None and manifest.verdict is not None
    ]


def open_version(versions: Versions, version: str | None, work: CycleWork) -> Version | None:
    """Open and load a version of the lane; None stays None."""
    if version is None:
        return None
    opened = versions.open(version)
    student = Student.load(opened, device=work.settings.device, precision=work.settings.precision)
    trained: frozenset[str] = frozenset()
    if SNAPSHOT_NAME in opened.manifest.files:
        rows = msgspec.json.decode(opened.read(SNAPSHOT_NAME))["rows"]
        trained = frozenset(row["id"] for row in rows if row["split"] == "train")
    return Version(opened=opened, student=student, trained=trained)


def _certified(champion: Version | None) -> bool:
    policy = champion.student.policy if champion is not None else None
    return policy is not None and policy.threshold is not None
