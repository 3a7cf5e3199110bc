"""One fit: a snapshot's training rows in, a draft of a version out.

The same rows, seed and number of threads give the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np
import torch

from store.registry.students.records import ClassifyRecord, Mode
from store.student.classify import Student
from store.student.encoder import FloatArray
from store.student.head import Head
from store.student.tuned import Tuned
from trainer.learn.classify.draft import Draft
from trainer.learn.classify.fine_tune import FineTuneSettings
from trainer.learn.classify.fine_tune import fine_tune as train_member
from trainer.learn.classify.head import choose_scale, fit_head
from trainer.learn.classify.mix import Answered, choose_mix
from trainer.learn.classify.probe import Probe, probe
from trainer.learn.enough import NotEnoughLabelsError
from trainer.learn.features import BaseEncoder
from trainer.learn.reference import reference_vectors
from trainer.work import Tell, tell_nobody

FineTuneMode = Literal["none", "fresh", "warm"]

_TWO: Final = 2


class TrainingRow(Answered, Protocol):
    """What a fit needs to know of one row of a snapshot."""

    @property
    def words(self) -> str:
        """The redacted question, in canonical form."""

    @property
    def soft(self) -> Mapping[str, float] | None:
        """The teacher's answers as shares, where it contradicted itself."""

    @property
    def weight(self) -> float:
        """How much the row counts in training; above 0."""

    @property
    def split(self) -> str:
        """Rows that are not `train` are not fitted to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How a student is fitted."""

    threads: int = 1  # two beside another busy process were up to eight times slower
    tuning: FineTuneSettings = field(default_factory=FineTuneSettings)


def fit(
    rows: Sequence[TrainingRow],
    features: FloatArray,
    *,
    labels: Sequence[str],
    base: BaseEncoder,
    previous: Student | None,
    settings: FitSettings,
    seed: int,
    fine_tune: FineTuneMode,
    label_maps: Mapping[str, Sequence[str]],
    tell: Tell = tell_nobody,
) -> Draft:
    """Fit the head, fine-tune if asked to, and weigh the members.

    Args:
        rows: of a snapshot, in a fixed order; only those of the train split are used.
        features: [rows, features], the base encoder's.
        labels: the head's, the previous student's first and in their order; rows of other labels are left out.
        base: the encoder to start from.
        previous: the champion: its fine-tuned member is kept or trained on.
        settings: threads, rates.
        seed: of batches, dropout and reference vectors.
        fine_tune: `fresh` from the base, `warm` from the previous member (`fresh` where there is none).
        label_maps: labels of earlier versions by version id, to read their opinions with.
        tell: told how far it has come.

    Raises:
        NotEnoughLabelsError: there is nothing to tell apart yet.
        ValueError: `labels` moves a label of the previous student.
    """
    torch.set_num_threads(settings.threads)
    _check_labels(labels, previous)
    earlier = previous if previous is not None and previous.encoder.fingerprint == base.encoder.fingerprint else None
    data = _training_data(rows, features, labels)
    member = _slow_member(
        data, base=base, earlier=earlier, settings=settings.tuning, seed=seed, fine_tune=fine_tune, tell=tell
    )
    tell("fitting", None)
    mix = choose_mix(data.rows, label_maps)
    scale = choose_scale(data.features, data.targets, weights=data.weights)
    return Draft(
        kind="head" if fine_tune == "none" else "fine_tune",
        base=base,
        head=fit_head(data.features, data.targets, weights=data.weights, scale=scale),
        tuned=member.tuned,
        reference=reference_vectors(data.features[:, -base.encoder.hidden_size :], seed=seed),
        record=ClassifyRecord(
            labels=list(labels),
            pool_weights=[1.0] if member.tuned is None else [1.0 - mix.share, mix.share],
            golden=[],
            precision=base.encoder.precision,
            threads=settings.threads,
            rows=len(data.rows),
            label_items={label: sum(row.label == label for row in data.rows) for label in labels},
            head_scale=scale,
            mix_opinions=mix.opinions,
            fine_tune=member.mode,
            tuned_rows=member.rows,
        ),
    )


def cross_fit(
    rows: Sequence[TrainingRow], features: FloatArray, parts: Sequence[Sequence[int]], draft: Draft
) -> Iterator[Head]:
    """For each part of some rows, a head that was fitted on all the rows outside it.

    Args:
        rows: of the snapshot.
        features: [rows, features].
        parts: places to leave out, one part at a time. Linked rows belong in one part.
        draft: the fit whose labels and scale are used.
    """
    scale = draft.record.head_scale
    if scale is None:
        message = "a draft without its head's scale was not fitted here"
        raise ValueError(message)
    for part in parts:
        left_out = set(part)
        kept = [place for place in range(len(rows)) if place not in left_out]
        data = _training_data([rows[place] for place in kept], features[kept], draft.labels)
        yield fit_head(data.features, data.targets, weights=data.weights, scale=scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """The rows that are fitted to."""

    rows: list[TrainingRow]
    features: FloatArray  # [n, features]
    targets: FloatArray  # [n, labels], rows sum to 1
    weights: FloatArray  # [n]


def _check_labels(labels: Sequence[str], previous: Student | None) -> None:
    old = previous.labels if previous is not None else ()
    if tuple(labels[: len(old)]) != old:
        message = f"the label map {list(labels)} does not begin with the champion's {list(old)}"
        raise ValueError(message)


def _training_data(rows: Sequence[TrainingRow], features: FloatArray, labels: Sequence[str]) -> _Data:
    """The training rows that have an answer in the head; soft answers are shared out among those that are in it."""
    place = {label: i for i, label in enumerate(labels)}
    targets = np.zeros((len(rows), len(labels)), dtype=np.float32)
    for i, row in enumerate(rows):
        for label, share in (row.soft or {row.label: 1.0}).items():
            if row.split == "train" and label in place:
                targets[i, place[label]] = share
    kept = [int(i) for i in np.flatnonzero(targets.sum(axis=1))]
    if np.count_nonzero(targets.sum(axis=0)) < _TWO:
        message = f"{len(kept)} training rows show fewer than two labels: wait for more answers"
        raise NotEnoughLabelsError(message)
    targets = targets[kept]
    return _Data(
        rows=[rows[i] for i in kept],
        features=np.ascontiguousarray(features[kept], dtype=np.float32),
        targets=targets / targets.sum(axis=1, keepdims=True),
        weights=np.array([rows[i].weight for i in kept], dtype=np.float32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """The slow one, with how it came about."""

    tuned: Tuned | None
    mode: Mode
    rows: int | None  # that it was last trained on


def _slow_member(
    data: _Data,
    *,
    base: BaseEncoder,
    earlier: Student | None,
    settings: FineTuneSettings,
    seed: int,
    fine_tune: FineTuneMode,
    tell: Tell,
) -> _Member:
    """The fine-tuned member: new, trained on, or kept as it is."""
    kept = earlier.tuned if earlier is not None else None
    if fine_tune == "none":
        rows = earlier.tuned_rows if earlier is not None and kept is not None else None
        return _Member(tuned=kept, mode="kept" if kept is not None else "none", rows=rows)
    start: Probe | Tuned
    if kept is not None and fine_tune == "warm":
        start = kept  # over fewer labels than there are now, it is widened where it is trained
    else:
        start = probe(data.features[:, -base.encoder.hidden_size :], data.targets, data.weights)
    tuned = train_member(
        base.encoder,
        [row.words for row in data.rows],
        data.targets,
        weights=data.weights,
        start=start,
        settings=settings,
        seed=seed,
        progress=lambda done, steps: tell("fine_tuning", done / steps),
    )
    return _Member(tuned=tuned, mode="warm" if isinstance(start, Tuned) else "fresh", rows=len(data.rows))
