"""A fit is a function of its rows, keeps what it should, and writes what a gateway loads."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.buffer.item import FirstOpinion
from store.event import Lane
from store.policy import Policy
from store.registry.manifest import FileEntry, Manifest
from store.registry.students.records import ClassifyRecord
from store.student.classify import Student
from tests.tiny import TOPICS, questions, tiny_encoder
from trainer.learn.classify.draft import Draft
from trainer.learn.classify.fine_tune import FineTuneSettings
from trainer.learn.classify.fit import FineTuneMode, FitSettings, fit
from trainer.learn.enough import NotEnoughLabelsError
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import ManifestParts
from trainer.learn.reference import reference_vectors

LABELS = tuple(sorted(TOPICS))
SETTINGS = FitSettings(tuning=FineTuneSettings(epochs=1, warm_epochs=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeRow:
    """A row of a snapshot."""

    words: str
    label: str
    soft: dict[str, float] | None = None
    weight: float = 1.0
    split: str = "train"
    first_opinion: FirstOpinion | None = None


@dataclass(frozen=True)
class FakeVersion:
    """What a registry would open."""

    manifest: Manifest
    folder: Path

    def read(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def path(self, name: str) -> Path:
        return self.folder / name


POLICY = Policy(
    temperature=1.7,
    threshold=0.5,
    novelty_threshold=0.4,
    target=0.9,
    confidence_level=0.95,
    coverage_ratio=0.5,
    rows=10,
    lower=0.9,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseEncoder:
    folder = tiny_encoder(tmp_path_factory.mktemp("tiny"))
    return BaseEncoder.open(folder, device="cpu", precision="fp32", max_tokens=32)


def rows_of(n: int, *, seed: int = 0) -> list[FakeRow]:
    return [FakeRow(words=text, label=label) for text, label in zip(*questions(n, seed=seed), strict=True)]


def fitted(
    base: BaseEncoder,
    rows: Sequence[FakeRow],
    *,
    labels: Sequence[str] = LABELS,
    previous: Student | None = None,
    fine_tune: FineTuneMode = "none",
    settings: FitSettings = SETTINGS,
) -> Draft:
    return fit(
        rows,
        base.encoder.features([row.words for row in rows]),
        labels=labels,
        base=base,
        previous=previous,
        settings=settings,
        seed=0,
        fine_tune=fine_tune,
        label_maps={},
    )


def opened(folder: Path, parts: ManifestParts, policy: Policy | None) -> FakeVersion:
    """The draft as a published version."""
    files = {
        str(path.relative_to(folder)): FileEntry(
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size_bytes=path.stat().st_size
        )
        for path in folder.rglob("*")
        if path.is_file()
    }
    manifest = Manifest(
        lane=Lane("acme", "intents"),
        kind=parts.kind,
        parent=None,
        created_s=0.0,
        code_version="test",
        seed=0,
        base=parts.base,
        served_parameters=parts.served_parameters,
        preprocessing=parts.preprocessing,
        student=parts.student,
        snapshot=None,
        verdict=None,
        policy=policy,
        topics=[],
        files=files,
    )
    return FakeVersion(manifest, folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_written_draft_loads_as_the_student_that_was_judged(base: BaseEncoder, tmp_path: Path) -> None:
    draft = fitted(base, rows_of(60), fine_tune="fresh")
    parts = draft.write(tmp_path, POLICY)
    loaded = Student.load(opened(tmp_path, parts, POLICY), device="cpu", precision="fp32")
    unseen = questions(20, seed=5)[0]
    judged, served = draft.student(POLICY).predict(unseen), loaded.predict(unseen)
    for name in ("members", "probs", "novelty"):
        np.testing.assert_array_equal(getattr(judged, name), getattr(served, name))
    assert loaded.check_golden() < 1e-6
    assert loaded.served_parameters == parts.served_parameters
    assert parts.kind == "fine_tune"
    assert isinstance(parts.student, ClassifyRecord)
    assert parts.student.pool_weights == pytest.approx([2 / 3, 1 / 3])
    assert parts.student.fine_tune == "fresh"


def test_the_golden_outputs_are_those_of_the_policy_that_serves(base: BaseEncoder, tmp_path: Path) -> None:
    draft = fitted(base, rows_of(60))
    parts = draft.write(tmp_path / "one", POLICY)
    assert Student.load(opened(tmp_path / "one", parts, POLICY), device="cpu", precision="fp32").check_golden() < 1e-6
    cold = draft.write(tmp_path / "two")
    assert Student.load(opened(tmp_path / "two", cold, POLICY), device="cpu", precision="fp32").check_golden() > 1e-3


@pytest.mark.parametrize("fine_tune", ["none", "fresh"])
def test_the_same_rows_give_the_same_bytes(base: BaseEncoder, tmp_path: Path, fine_tune: FineTuneMode) -> None:
    parts = [fitted(base, rows_of(60), fine_tune=fine_tune).write(tmp_path / name) for name in ("a", "b")]
    assert parts[0] == parts[1]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_only_training_rows_with_an_answer_in_the_head_are_fitted_to(base: BaseEncoder, tmp_path: Path) -> None:
    rows = rows_of(60)
    held = [
        replace(row, label=LABELS[0], split=split) for row in rows_of(30, seed=9) for split in ("calibrate", "judge")
    ]
    rare = [FakeRow(words="help me with this", label="rare")]
    alone, mixed = fitted(base, rows), fitted(base, [*held, *rows, *rare])
    alone.write(tmp_path / "a")
    mixed.write(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert mixed.record.rows == 60
    assert mixed.student().predict([rare[0].words]).novelty[0] > 1e-3


def test_weights_and_soft_answers_are_used(base: BaseEncoder) -> None:
    rows = rows_of(60)
    heavy = [replace(row, weight=5.0 if row.label == LABELS[0] else 1.0) for row in rows]
    soft = [replace(row, soft={LABELS[0]: 0.5, LABELS[1]: 0.5}) if row.label == LABELS[0] else row for row in rows]
    texts = [row.words for row in rows]
    plain, weighed, softened = (fitted(base, x).student().predict(texts).probs for x in (rows, heavy, soft))
    assert weighed[:, 0].mean() > plain[:, 0].mean() + 0.01
    assert softened[:, 1].mean() > plain[:, 1].mean() + 0.05


def test_a_head_fit_keeps_the_fine_tuned_members_bytes_also_with_a_new_label(base: BaseEncoder, tmp_path: Path) -> None:
    rows = rows_of(90)
    early = [row for row in rows if row.label != LABELS[2]]
    first = fitted(base, early, labels=LABELS[:2], fine_tune="fresh")
    first.write(tmp_path / "first")
    second = fitted(base, rows, previous=first.student())
    second.write(tmp_path / "second")
    name = "tuned.safetensors"
    assert contents(tmp_path / "first")[name] == contents(tmp_path / "second")[name]
    assert second.kind == "head"
    assert second.record.tuned_rows == len(early)
    assert second.labels == LABELS
    chosen = second.student().predict([row.words for row in rows]).probs.argmax(axis=1)
    assert (chosen == 2).any()


def test_warm_goes_on_from_the_champion_and_starts_afresh_without_one(base: BaseEncoder) -> None:
    rows = rows_of(60)
    still = FitSettings(tuning=FineTuneSettings(epochs=1, warm_epochs=1, learning_rate=0.0, head_learning_rate=0.0))
    first = fitted(base, rows, fine_tune="warm")
    assert first.record.fine_tune == "fresh"
    second = fitted(base, rows, previous=first.student(), fine_tune="warm", settings=still)
    assert second.record.fine_tune == "warm"
    assert first.tuned is not None
    assert second.tuned is not None
    np.testing.assert_array_equal(second.tuned.weight, first.tuned.weight)


def test_a_warm_member_is_probed_for_labels_it_was_never_shown(base: BaseEncoder) -> None:
    rows = rows_of(90)
    still = FitSettings(tuning=FineTuneSettings(epochs=1, warm_epochs=1, learning_rate=0.0, head_learning_rate=0.0))
    early = fitted(base, [row for row in rows if row.label != LABELS[2]], labels=LABELS[:2], fine_tune="fresh")
    late = fitted(base, rows, previous=early.student(), fine_tune="warm", settings=still)
    assert late.record.fine_tune == "warm"
    new = [row.words for row in rows if row.label == LABELS[2]]
    logits = late.student().tuned_logits(new)
    assert logits is not None
    assert (logits.argmax(axis=1) == 2).mean() > 0.6


def test_a_student_on_another_base_lends_its_labels_only(base: BaseEncoder, tmp_path: Path) -> None:
    other = BaseEncoder.open(tiny_encoder(tmp_path, layers=2, seed=4), device="cpu", precision="fp32", max_tokens=32)
    previous = fitted(other, rows_of(60), fine_tune="fresh").student()
    draft = fitted(base, rows_of(60), previous=previous)
    assert draft.tuned is None
    assert draft.record.pool_weights == [1.0]


def test_one_label_is_nothing_to_tell_apart(base: BaseEncoder) -> None:
    rows = [row for row in rows_of(60) if row.label == LABELS[0]]
    with pytest.raises(NotEnoughLabelsError, match="fewer than two"):
        fitted(base, rows)
    with pytest.raises(NotEnoughLabelsError):
        fitted(base, [replace(row, split="judge") for row in rows_of(60)])


def test_a_label_map_that_moves_an_old_label_is_refused(base: BaseEncoder) -> None:
    previous = fitted(base, rows_of(60)).student()
    with pytest.raises(ValueError, match="does not begin"):
        fitted(base, rows_of(60), labels=LABELS[::-1], previous=previous)


@given(seed=st.integers(0, 999))
def test_no_row_is_farther_from_the_references_than_they_are_from_one_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.normal(size=(95, 8)) * 0.1 + 1.0, rng.normal(size=(5, 8))]).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = reference_vectors(rows, seed=0, size=10).float().numpy()
    assert chosen.shape == (10, 8)
    closest_pair = (chosen @ chosen.T - 2.0 * np.eye(10)).max()
    assert (rows @ chosen.T).max(axis=1).min() >= closest_pair - 2e-3


def test_few_rows_are_all_references() -> None:
    rows = np.eye(3, 8, dtype=np.float32)
    np.testing.assert_array_equal(reference_vectors(rows, seed=0).float().numpy(), rows)
