"""The recipe of `classify`: discriminants on kept features, and a fine-tuned encoder beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from msgspec import structs

from store.balance import balanced
from store.control import CycleKind
from store.near.neighbours import conflicts
from store.policy import Metric, Moment, Policy
from store.registry.sealed import OpenVersion
from store.registry.students.records import ClassifyRecord
from store.student.classify import Predictions, Student
from store.student.encoder import FloatArray
from store.student.tuned import Tuned
from store.tasks.classify import ClassifyRules
from store.tasks.narrow import narrow
from store.tasks.rules import TaskRules
from trainer.judge.scored import Scored
from trainer.learn.classify.draft import Draft
from trainer.learn.classify.fit import FineTuneMode, FitSettings, cross_fit, fit
from trainer.learn.classify.freezing import LabelFreezing
from trainer.learn.classify.temper import index_of, start_of
from trainer.learn.features import BaseEncoder, FeatureCache, Telling
from trainer.learn.halves import halves
from trainer.learn.recipe import CrossFitted, Features, Frozen, Lineage, Rival, weights_of
from trainer.learn.recipe import Student as AnyStudent
from trainer.snapshot import Snapshot
from trainer.work import CycleSettings, LaneTraining, Tell

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenLabels:
    """The snapshot with the base encoder's features of its rows. Satisfies `trainer.learn.recipe.Frozen`."""

    snapshot: Snapshot
    base: BaseEncoder
    features: FloatArray  # [rows, features]
    rules: TaskRules
    metric: Metric
    target: float
    confidence: float
    novelty_quantile: float
    verdicts: ClassVar[None] = None
    _tuned: WeakKeyDictionary[Tuned, dict[int, FloatArray]] = field(default_factory=WeakKeyDictionary, repr=False)

    def topics_from(self) -> tuple[FloatArray, list[str]]:
        """The pooled last layer, and the words."""
        return self.features[:, -self.base.encoder.hidden_size :], [row.words for row in self.snapshot.rows]

    def conflicts(self) -> list[tuple[int, int]]:
        """By the same vectors, and the labels."""
        vectors, words = self.topics_from()
        return conflicts(vectors, words, [row.label for row in self.snapshot.rows])

    def start(self, student: AnyStudent, places: Sequence[int], weights: Floats) -> Policy:
        """A temperature and a novelty limit."""
        plain = classifier(student).with_policy(None)
        said = self.predict(plain, places)
        return start_of(
            said.probs,
            index_of([self.snapshot.rows[place].label for place in places], plain.labels),
            weights,
            said.novelty,
            target=self.target,
            confidence=self.confidence,
            novelty_quantile=self.novelty_quantile,
        )

    def early(self, student: AnyStudent, places: Sequence[int], weights: Floats) -> Mapping[Moment, Scored]:  # noqa: ARG002 - as the protocol has it
        """It says all at once."""
        return {}

    def scored(self, student: AnyStudent, places: Sequence[int], weights: Floats) -> Scored:
        """What judges read of a student; its answers are those that the lane's metric would have served."""
        own = classifier(student)
        said = self.predict(own, places)
        return self.scores_of(said.probs, said.novelty, own.labels, places, weights)

    def scores_of(
        self, probs: FloatArray, novelty: FloatArray, labels: Sequence[str], places: Sequence[int], weights: Floats
    ) -> Scored:
        """The same of probabilities, [places, labels]."""
        rows = [self.snapshot.rows[place] for place in places]
        served: npt.NDArray[np.floating] = probs
        if self.metric == "balanced_accuracy" and rows:
            requests = weights_of(self.snapshot.rows, places, "requests")
            served = balanced(probs, np.average(probs, axis=0, weights=requests))
        best = served.argmax(axis=1) if rows else np.empty(0, np.int64)
        return Scored(
            confidence=served.max(axis=1, initial=0.0).astype(np.float32).astype(np.float64),
            novelty=novelty.astype(np.float64),
            agreed=np.array(
                [self.rules.agree(row.label, labels[top]) for row, top in zip(rows, best, strict=True)], np.float64
            ),
            weight=weights,
            cluster=np.array([row.cluster for row in rows], np.int64),
        )

    def predict(self, student: Student, places: Sequence[int]) -> Predictions:
        """A student's answers to some rows, from the kept features where it shares the base; no row is read twice."""
        if student.encoder.fingerprint != self.base.encoder.fingerprint:
            return student.predict([self.snapshot.rows[place].words for place in places])
        return student.predict_from(self.features[list(places)], self._logits(student, places))

    def _logits(self, student: Student, places: Sequence[int]) -> FloatArray | None:
        if student.tuned is None:
            return None
        known = self._tuned.setdefault(student.tuned, {})
        new = [place for place in places if place not in known]
        found = student.tuned_logits([self.snapshot.rows[place].words for place in new]) if new else None
        if found is not None:
            known.update(zip(new, found, strict=True))
        empty = np.empty((0, student.tuned.labels), np.float32)
        return np.stack([known[place] for place in places]) if places else empty


class ClassifyRecipe:
    """Satisfies `trainer.learn.recipe.Recipe`."""

    def freezing(self, training: LaneTraining, settings: CycleSettings, champion: AnyStudent | None) -> LabelFreezing:
        """The champion's labels stay; a lane that promises nothing waits for no label."""
        return LabelFreezing(
            labels_min=settings.min_items_per_label if training.policy == "promise" else 1,
            known=classifier(champion).labels if champion is not None else (),
            rules=ClassifyRules(labels=training.terms.labels, earlier=training.terms.earlier),
        )

    def base(self, settings: CycleSettings) -> BaseEncoder:
        """Any encoder."""
        return BaseEncoder.open(
            settings.encoder, device=settings.device, precision=settings.precision, max_tokens=settings.max_tokens
        )

    def cache(self, folder: Path, tell: Tell) -> Features:
        """Features by item id."""
        return Telling(FeatureCache.of(folder / "features"), tell)

    def freeze(
        self,
        snapshot: Snapshot,
        base: BaseEncoder,
        features: Features,
        *,
        training: LaneTraining,
        settings: CycleSettings,
    ) -> FrozenLabels:
        """The rows with their features."""
        rows = snapshot.rows
        return FrozenLabels(
            snapshot=snapshot,
            base=base,
            features=features.features(base.encoder, [row.item_id for row in rows], [row.words for row in rows]),
            rules=training.rules,
            metric=training.metric,
            target=training.target,
            confidence=training.confidence,
            novelty_quantile=settings.novelty_quantile,
        )

    def load(self, opened: OpenVersion, settings: CycleSettings) -> Student:
        """See `store.student.tasks.Loader`."""
        return Student.load(opened, device=settings.device, precision=settings.precision)

    def fit(self, kind: CycleKind, frozen: Frozen, lineage: Lineage, *, settings: CycleSettings, tell: Tell) -> Draft:
        """A head; with `fine_tune` a new member as well, warm where the champion has one."""
        rows = labelled(frozen)
        previous = classifier(lineage.champion.student) if lineage.champion is not None else None
        mode: FineTuneMode = "none"
        if kind == "fine_tune":
            mode = "warm" if previous is not None and previous.tuned is not None else "fresh"
        return fit(
            rows.snapshot.rows,
            rows.features,
            labels=rows.snapshot.labels,
            base=rows.base,
            previous=previous,
            settings=FitSettings(threads=settings.threads),
            seed=settings.seed,
            fine_tune=mode,
            label_maps=_label_maps(lineage),
            tell=tell,
        )

    def cross_fitted(self, frozen: Frozen, draft: object, champion: Rival) -> CrossFitted:
        """A head from the other rows, and the champion's fine-tuned member: it has seen none of what is new to it."""
        rows, own = labelled(frozen), drafted(draft)

        def scored(places: Sequence[int], weights: Floats) -> Scored:
            probs, novelty = cross_predict(rows, own, champion, places)
            return rows.scores_of(probs, novelty, own.labels, places, weights)

        return scored


RECIPE: Final = ClassifyRecipe()


def classifier(student: object) -> Student:
    """A student, as one of `classify`.

    Raises:
        TypeError: it is another task's: the lane's versions are mixed up.
    """
    return narrow(student, Student, "a cycle of classify")


def labelled(frozen: object) -> FrozenLabels:
    """Frozen rows, as those of `classify`.

    Raises:
        TypeError: they are another task's.
    """
    return narrow(frozen, FrozenLabels, "a cycle of classify")


def drafted(draft: object) -> Draft:
    """A draft, as one of `classify`.

    Raises:
        TypeError: it is another task's.
    """
    return narrow(draft, Draft, "a cycle of classify")


def cross_predict(
    rows: FrozenLabels, draft: Draft, champion: Rival, places: Sequence[int]
) -> tuple[FloatArray, FloatArray]:
    """Probabilities [places, labels] and novelty [places] from fits that saw none of these rows.

    Raises:
        ValueError: a row is not new to the champion, whose member takes part.
    """
    seen = {rows.snapshot.clusters[one] for one in champion.trained if one in rows.snapshot.clusters}
    if any(rows.snapshot.rows[place].cluster in seen for place in places):
        message = "only rows that are new to the champion are cross-fitted"
        raise ValueError(message)
    tuned = classifier(champion.student).tuned
    if tuned is not None and draft.tuned is not None:
        recipe = replace(draft, tuned=tuned)
    else:
        recipe = replace(draft, tuned=None, record=structs.replace(draft.record, pool_weights=[1.0]))
    probs = np.empty((len(places), len(draft.labels)), np.float32)
    novelty = np.empty(len(places), np.float32)
    parted = halves([rows.snapshot.rows[place].cluster for place in places])
    parts = [[places[index] for index in half] for half in parted]
    fitted = cross_fit(rows.snapshot.rows, rows.features, parts, draft)
    for half, part, head in zip(parted, parts, fitted, strict=True):
        said = rows.predict(replace(recipe, head=head).student(), part)
        probs[half], novelty[half] = said.probs, said.novelty
    return probs, novelty


def _label_maps(lineage: Lineage) -> Mapping[str, Sequence[str]]:
    return {version: record.labels for version, record in lineage.records.items() if isinstance(record, ClassifyRecord)}
