"""The student of `classify`: texts in, label probabilities and novelty out. Trainer and gateway run this same code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol, Self

import numpy as np
import torch
from msgspec import structs
from torch import Tensor
from torch.nn import functional

from store.errors import CorruptVersionError, SwapRefusedError
from store.event import TaskInput, TextInput
from store.labels import check_label_map
from store.policy import Policy
from store.registry.manifest import Manifest
from store.registry.students.records import ClassifyRecord, Golden, StudentRecord
from store.student.checked import check_whole, record_of
from store.student.encoder import Encoder, FloatArray, Precision, read_tensors, shared_encoder
from store.student.folder import ENCODER_FILES
from store.student.head import Head
from store.student.loaded import LabelOpinion
from store.student.tuned import Tuned, pool, spread
from store.tasks.narrow import narrow

HEAD_NAME: Final = "head.safetensors"
TUNED_NAME: Final = "tuned.safetensors"
REFERENCE_NAME: Final = "reference.safetensors"
REFERENCE_TENSOR: Final = "reference"
ENCODER_FOLDER: Final = "encoder/"
MAX_REFERENCES: Final = 4096

GOLDEN_TOLERANCE_SAME: Final = 0.05  # the same precision, other hardware, batches or threads (measured: 0.017, bf16)
GOLDEN_TOLERANCE_MIXED: Final = 0.1  # one computes in fp32, the other in bf16 (measured: 0.019 over 400 texts)
GOLDEN_TEXTS: Final = (
    "The meeting starts at nine.",
    "Where can I see what I ordered last week?",
    "Nothing happened, and nobody asked why.",
    "It rained for three days without a break.",
    "Please send the second form, not the first.",
    "I finally passed the exam on my fourth try!",
    "12 + 30 = 42",
    "The bridge was closed because the river had risen, so we walked back to the village and waited until evening.",
)
_SMALLEST_PROBABILITY: Final = 1e-12
_WEIGHT_SUM_TOLERANCE: Final = 1e-6


class Opened(Protocol):
    """A version whose signature and hashes were verified."""

    @property
    def manifest(self) -> Manifest:
        """What the version says of itself."""

    def read(self, name: str) -> bytes:
        """The verified bytes of one file."""

    def path(self, name: str) -> Path:
        """Where a file lies that was verified, for one that is mapped rather than read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What the student says to n texts, in their order."""

    members: FloatArray  # [members, n, labels]: the head's, then the fine-tuned encoder's
    probs: FloatArray  # [n, labels]: the members, pooled, at the policy's temperature
    novelty: FloatArray  # [n]: 1 - cosine to the nearest reference vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Student:
    """One version in memory. Immutable; several threads may predict with it at once."""

    encoder: Encoder
    labels: tuple[str, ...]
    head: Head
    tuned: Tuned | None
    pool_weights: tuple[float, ...]
    reference: Tensor  # [references, hidden], each of length 1
    policy: Policy | None
    made_in: Literal["fp32", "bf16"] | None  # precision of the golden outputs
    tuned_rows: int | None = None  # that the fine-tuned member was last trained on
    golden: tuple[Golden, ...] = ()

    @staticmethod
    def load(opened: Opened, *, device: str = "auto", precision: Precision = "auto") -> "Student":
        """Build the student from a verified version; nothing but safetensors and JSON is read.

        Raises:
            CorruptVersionError: the files, the label map and the architecture do not fit together.
            SwapRefusedError: this release cannot run such a student here.
        """
        manifest = opened.manifest
        record = _check(manifest)
        encoder = shared_encoder(
            {name: manifest.files[ENCODER_FOLDER + name].sha256 for name in ENCODER_FILES},
            lambda name: opened.read(ENCODER_FOLDER + name),
            device=device,
            precision=precision,
            max_tokens=manifest.preprocessing.max_tokens,
            kind=Encoder,
        )
        labels = len(record.labels)
        tensors = read_tensors(HEAD_NAME, opened.read(HEAD_NAME))
        tuned = None
        if TUNED_NAME in manifest.files:
            tuned = Tuned.of(read_tensors(TUNED_NAME, opened.read(TUNED_NAME)), encoder=encoder, labels=labels)
        return Student(
            encoder=encoder,
            labels=tuple(record.labels),
            head=Head.of(tensors, labels=labels, feature_size=encoder.feature_size),
            tuned=tuned,
            pool_weights=tuple(record.pool_weights),
            reference=read_reference(read_tensors(REFERENCE_NAME, opened.read(REFERENCE_NAME)), encoder.hidden_size),
            policy=manifest.policy,
            made_in=record.precision,
            tuned_rows=record.tuned_rows,
            golden=tuple(record.golden),
        )

    @property
    def served_parameters(self) -> int:
        """How many distinct numbers are in service: base, head and what fine-tuning changed."""
        base = self.encoder.parameters
        return int(base + self.head.parameters + (self.tuned.parameters if self.tuned is not None else 0))

    @property
    def golden_tolerance(self) -> float:
        """The largest deviation from the golden outputs that rounding explains; a temperature below 1 sharpens it."""
        same = self.made_in == self.encoder.precision
        sharpness = min(1.0, self.policy.temperature) if self.policy is not None else 1.0
        return (GOLDEN_TOLERANCE_SAME if same else GOLDEN_TOLERANCE_MIXED) / sharpness

    def predict(self, texts: Sequence[str]) -> Predictions:
        """Answer texts that were redacted before. Rows do not influence one another, up to rounding."""
        rows = self.encoder.tokenise(texts)
        features = self.encoder.pooled(rows, layers=self.encoder.feature_layers)
        return self.predict_from(features, self.tuned.logits(rows) if self.tuned is not None else None)

    def predict_from(self, features: FloatArray, tuned_logits: FloatArray | None) -> Predictions:
        """Answer from kept features.

        Args:
            features: [n, features], the encoder's.
            tuned_logits: [n, labels it knows], the fine-tuned member's; None iff there is none.
        """
        members = [self.head.probs(features)]
        if tuned_logits is not None:
            members.append(spread(tuned_logits, members[0]))
        probs = pool(members, self.pool_weights)
        if self.policy is not None:
            probs = tempered(probs, self.policy.temperature)
        return Predictions(members=np.stack(members), probs=probs, novelty=self._novelty(features))

    def tuned_logits(self, texts: Sequence[str]) -> FloatArray | None:
        """The fine-tuned member's logits for `predict_from`: [n, labels it knows]; None when there is none."""
        return self.tuned.logits(self.encoder.tokenise(texts)) if self.tuned is not None else None

    def look(self, inputs: Sequence[TaskInput]) -> list[LabelOpinion]:
        """See `store.student.loaded.Loaded`."""
        return self.opinions(self.predict([text_of(value) for value in inputs]))

    def opinions(self, said: Predictions) -> list[LabelOpinion]:
        """The same from what it has said to n texts.

        Raises:
            ValueError: a number is not finite: the student is broken.
        """
        if not all(np.isfinite(part).all() for part in (said.members, said.probs, said.novelty)):
            message = "the student says what is no number"
            raise ValueError(message)
        return [self._opinion(said, row) for row in range(len(said.probs))]

    def too_long(self, value: TaskInput) -> bool:
        """Whether the student would not read all of it."""
        return self.encoder.too_long(text_of(value))

    def tokens(self, value: TaskInput) -> int:
        """About how many tokens a forward pass reads."""
        return self.encoder.about_tokens(text_of(value))

    def with_policy(self, policy: Policy | None) -> "Student":
        """The same student under another policy."""
        return replace(self, policy=policy)

    def golden_outputs(self) -> list[Golden]:
        """Eight neutral sentences, nobody's data, with what this student says to them."""
        probs = self.predict(GOLDEN_TEXTS).probs.tolist()
        return [Golden(text=text, probs=row) for text, row in zip(GOLDEN_TEXTS, probs, strict=True)]

    def told(self, record: StudentRecord) -> StudentRecord:
        """A record with the golden outputs of this very student.

        Raises:
            TypeError: it is another task's.
        """
        if not isinstance(record, ClassifyRecord):
            message = f"a record of {record.task} for a student of classify"
            raise TypeError(message)
        return structs.replace(record, golden=self.golden_outputs(), precision=self.encoder.precision)

    def check_golden(self) -> float:
        """The largest deviation from the probabilities that the trainer saw; infinite when one is no number."""
        probs = self.predict([one.text for one in self.golden]).probs
        deviation = np.abs(probs - np.asarray([one.probs for one in self.golden])).max(initial=0.0)
        return float(deviation) if np.isfinite(deviation) else float("inf")

    def check_follows(self, serving: Self | None, *, removal_declared: bool) -> None:
        """See `store.student.loaded.Loaded`: labels keep their places, and none goes unless a person declared it."""
        check_label_map(serving.labels if serving is not None else (), self.labels, removal_declared=removal_declared)

    def _opinion(self, said: Predictions, row: int) -> LabelOpinion:
        best = int(said.probs[row].argmax())
        probs = _shown(said.probs[row])
        low, high = sorted(probs)[-2:]
        return LabelOpinion(
            output=self.labels[best],
            confidence=min(1.0, max(0.0, float(said.probs[row, best]))),
            uncertainty=1.0 - (high - low),
            novelty=float(said.novelty[row]),
            members=[_shown(member[row]) for member in said.members],
            probs=probs,
            labels=self.labels,
        )

    def _novelty(self, features: FloatArray) -> FloatArray:
        pooled = torch.from_numpy(features[:, -self.encoder.hidden_size :])
        nearest = (pooled @ self.reference.T).max(dim=1).values if len(features) else pooled.new_empty(0)
        result: FloatArray = (1.0 - nearest).clamp(min=0.0).numpy()
        return result


def _shown(probs: FloatArray) -> list[float]:
    """Probabilities as an event keeps them."""
    shown: list[float] = np.clip(probs.astype(np.float64), 0.0, 1.0).round(6).tolist()
    return shown


def tempered(probs: FloatArray, temperature: float) -> FloatArray:
    """softmax(log(probs) / temperature), rows of [n, labels]; unchanged at 1 (Guo et al. 2017)."""
    logprobs = torch.from_numpy(probs).clamp(min=_SMALLEST_PROBABILITY).log()
    result: FloatArray = torch.softmax(logprobs / temperature, dim=-1).numpy()
    return result


def text_of(value: TaskInput) -> str:
    """The text of an input of `classify`.

    Raises:
        TypeError: it is another task's.
    """
    return narrow(value, TextInput, "a student of classify").text


def _check(manifest: Manifest) -> ClassifyRecord:
    """The record, of a manifest that does not contradict itself; no file is read."""
    record = record_of(manifest, ClassifyRecord)
    if not record.pool_weights:
        message = "it mixes its members as an earlier release did: this release does not serve it"
        raise SwapRefusedError(message)
    weights, labels = record.pool_weights, record.labels
    members = 2 if TUNED_NAME in manifest.files else 1
    problems = {
        "its labels are fewer than two, empty or repeated": len(labels) < 2  # noqa: PLR2004 - two classes at least
        or len(set(labels)) != len(labels)
        or not all(labels),
        f"its pool weights {weights} do not fit {members} members": len(weights) != members
        or not all(0.0 <= weight <= 1.0 for weight in weights)
        or abs(sum(weights) - 1.0) > _WEIGHT_SUM_TOLERANCE,
        "its golden outputs do not fit its labels": not record.golden
        or any(len(golden.probs) != len(labels) for golden in record.golden),
        "its temperature is not above 0": manifest.policy is not None
        and not 0.0 < manifest.policy.temperature < float("inf"),
    }
    check_whole(manifest, [*(ENCODER_FOLDER + name for name in ENCODER_FILES), HEAD_NAME, REFERENCE_NAME], problems)
    check_base(manifest)
    return record


def check_base(manifest: Manifest) -> None:
    """Refuse a version whose encoder is another than it says."""
    weights_hash = manifest.files[ENCODER_FOLDER + ENCODER_FILES[-1]].sha256
    if manifest.base.sha256 != weights_hash:
        message = f"a version's encoder is {weights_hash[:12]}, not its base {manifest.base.sha256[:12]}"
        raise CorruptVersionError(message)


def read_reference(tensors: Mapping[str, Tensor], hidden_size: int) -> Tensor:
    """The vectors [references, hidden] that novelty is measured from, each of length 1.

    Raises:
        CorruptVersionError: there are none, too many, or none of this size.
    """
    reference = tensors.get(REFERENCE_TENSOR)
    fits = (
        reference is not None and reference.ndim == 2 and reference.shape[1] == hidden_size  # noqa: PLR2004 - a matrix
    )
    if reference is None or not fits or not 1 <= len(reference) <= MAX_REFERENCES:
        message = f"{REFERENCE_NAME} does not hold 1 to {MAX_REFERENCES} vectors of {hidden_size}"
        raise CorruptVersionError(message)
    return functional.normalize(reference.float(), dim=-1)
