"""The ranking student: a query and documents in, their order, scores, confidence and novelty out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Self

import msgspec
import numpy as np
from torch import Tensor

from store.errors import CorruptVersionError
from store.event import RankInput, TaskInput
from store.policy import Policy
from store.registry.manifest import Manifest
from store.registry.students.records import RankGolden, RankRecord, StudentRecord
from store.student.checked import check_whole, record_of
from store.student.classify import (
    ENCODER_FOLDER,
    HEAD_NAME,
    REFERENCE_NAME,
    TUNED_NAME,
    Opened,
    check_base,
    read_reference,
)
from store.student.encoder import Encoder, FloatArray, Precision, read_tensors, shared_encoder
from store.student.folder import CONFIG_NAME, ENCODER_FILES
from store.student.loaded import RankOpinion
from store.student.rank.bases import Base, BiEncoderBase, Matched, base_on, kind_of, shared_base
from store.student.rank.golden import GOLDEN_LISTS
from store.student.rank.head import RankHead, confidence
from store.student.rank.vectors import VectorCache
from store.tasks.measures import Places, best_first
from store.tasks.narrow import narrow
from store.tasks.rank import Tolerance

GOLDEN_TOLERANCE_SAME: Final = 0.05  # of the golden scores' range; other hardware, batches or threads
GOLDEN_TOLERANCE_MIXED: Final = 0.1  # one computes in fp32, the other in bf16
_SLOPE: Final = "slope"
_ENCODER: Final = "encoder/"
_TUNED_CACHE_BYTES: Final = 64 << 20
_SMALLEST_RANGE: Final = 1e-6
_DIGITS: Final = 6  # of a score in an event


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class TunedRanker:
    """The slow member: the base, fine-tuned in its top layers; slope * similarity is in the teacher's units."""

    changed: Mapping[str, Tensor]  # float32 on the CPU: the parameters that are not the base's
    slope: float
    base: Base

    @staticmethod
    def on(encoder: Encoder, changed: Mapping[str, Tensor], slope: float) -> "TunedRanker":
        """The member on its base.

        Raises:
            CorruptVersionError: a parameter does not fit the encoder.
        """
        base = base_on(encoder.twin(changed), max_bytes=_TUNED_CACHE_BYTES)
        return TunedRanker(changed=changed, slope=slope, base=base)

    @property
    def parameters(self) -> int:
        """How many numbers are served beside the base's."""
        return sum(tensor.numel() for tensor in self.changed.values()) + 1

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as `tuned.safetensors` holds them."""
        import torch  # noqa: PLC0415 - only where a version is written

        named = {f"{_ENCODER}{name}": value for name, value in self.changed.items()}
        return {**named, _SLOPE: torch.tensor([self.slope], dtype=torch.float64)}

    @staticmethod
    def of(tensors: Mapping[str, Tensor], encoder: Encoder) -> "TunedRanker":
        """The member in a version's tensors.

        Raises:
            CorruptVersionError: a tensor is missing or unknown, or does not fit the encoder.
        """
        slope = tensors.get(_SLOPE)
        foreign = [name for name in tensors if name != _SLOPE and not name.startswith(_ENCODER)]
        if slope is None or tuple(slope.shape) != (1,) or foreign:
            message = f"the fine-tuned member has no slope, or unknown tensors: {', '.join(foreign[:3])}"
            raise CorruptVersionError(message)
        changed = {name.removeprefix(_ENCODER): one.float() for name, one in tensors.items() if name != _SLOPE}
        return TunedRanker.on(encoder, changed, float(slope[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What the student says to one list of n documents."""

    scores: FloatArray  # [n], in the order of the documents
    members: tuple[FloatArray, ...]  # [n] each: the frozen member's, then the fine-tuned one's
    order: Places  # [n], best first
    confidence: float  # that the teacher's ranking is the same, by the tolerance
    novelty: float  # of the query: 1 - cosine to the nearest reference vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranker:
    """One version in memory. Immutable; several threads may rank with it at once."""

    base: Base
    head: RankHead
    reference: FloatArray  # [references, hidden], queries that it was trained on, each of length 1
    tolerance: Tolerance  # what its confidence is of
    tuned: TunedRanker | None = None
    tuned_share: float = 0.0
    policy: Policy | None = None
    made_in: Literal["fp32", "bf16"] | None = None  # precision of the golden outputs
    tuned_rows: int | None = None  # that the fine-tuned member was last trained on
    golden: tuple[RankGolden, ...] = ()

    @staticmethod
    def load(opened: Opened, *, device: str = "auto", precision: Precision = "auto") -> "Ranker":
        """Build the student from a verified version; nothing but safetensors and JSON is read.

        Raises:
            CorruptVersionError: the files and the record do not fit together.
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
            kind=kind_of(opened.read(ENCODER_FOLDER + CONFIG_NAME)),
        )
        base = shared_base(encoder)
        tuned = None
        if TUNED_NAME in manifest.files:
            tuned = TunedRanker.of(read_tensors(TUNED_NAME, opened.read(TUNED_NAME)), encoder)
        head = RankHead.of(read_tensors(HEAD_NAME, opened.read(HEAD_NAME)), features=base.features)
        reference = read_reference(read_tensors(REFERENCE_NAME, opened.read(REFERENCE_NAME)), encoder.hidden_size)
        return Ranker(
            base=base,
            head=head,
            reference=reference.numpy(),
            tolerance=Tolerance(k=record.k, epsilon=record.epsilon),
            tuned=tuned,
            tuned_share=record.tuned_share,
            policy=manifest.policy,
            made_in=record.precision,
            tuned_rows=record.tuned_rows,
            golden=tuple(record.golden),
        )

    @property
    def encoder(self) -> Encoder:
        """Its base."""
        return self.base.encoder

    @property
    def vectors(self) -> VectorCache | None:
        """Where documents' vectors are kept; None: a cross-encoder has none."""
        return self.base.vectors if isinstance(self.base, BiEncoderBase) else None

    @property
    def served_parameters(self) -> int:
        """How many distinct numbers are in service."""
        base = self.encoder.parameters
        own = np.size(self.head.weight) + len(self.head.items) + 2
        return int(base + own + (self.tuned.parameters if self.tuned is not None else 0))

    @property
    def golden_tolerance(self) -> float:
        """The largest deviation from the golden scores that rounding explains, as a share of their range."""
        return GOLDEN_TOLERANCE_SAME if self.made_in == self.encoder.precision else GOLDEN_TOLERANCE_MIXED

    def look(self, inputs: Sequence[TaskInput]) -> list[RankOpinion]:
        """See `store.student.loaded.Loaded`."""
        return [_opinion(one) for one in self.rankings([list_of(value) for value in inputs])]

    def rankings(self, lists: Sequence[RankInput]) -> list[Ranking]:
        """Rank redacted lists; the queries, and the documents that are not known, are computed in whole batches.

        The order in which documents are given changes no score.
        """
        if not lists:
            return []
        matched = self.base.match(lists)
        if self.tuned is None:
            return [self.rank_from(one, None) for one in matched]
        said = self.tuned.base.match(lists)
        return [self.rank_from(one, other.similarity) for one, other in zip(matched, said, strict=True)]

    def rank_from(self, matched: Matched, tuned: FloatArray | None) -> Ranking:
        """Rank by what was computed before. The order in which documents are given changes no score.

        Args:
            matched: what the base makes of the list.
            tuned: [n] similarities of the fine-tuned member; None iff there is none.

        Raises:
            ValueError: a number is not finite: the student is broken.
        """
        keys = matched.keys
        scores = self.head.scores(matched)
        members: tuple[FloatArray, ...] = (scores,)
        if self.tuned is not None and tuned is not None:
            slow = np.float32(self.tuned.slope) * tuned + self.head.biases(keys)
            members = (_centred(scores), _centred(slow))
            scores = np.float32(1.0 - self.tuned_share) * members[0] + np.float32(self.tuned_share) * members[1]
        if not np.isfinite(scores).all():
            message = "the student says what is no number"
            raise ValueError(message)
        return Ranking(
            scores=scores,
            members=members,
            order=best_first(scores, keys),
            confidence=confidence(scores, self.head.sigmas(keys), self.tolerance),
            novelty=max(0.0, 1.0 - float((self.reference @ matched.query).max(initial=-1.0))),
        )

    def too_long(self, value: TaskInput) -> bool:
        """Whether the student would not read all of one of the texts."""
        return self.base.too_long(list_of(value))

    def tokens(self, value: TaskInput) -> int:
        """About how many tokens a forward pass reads; documents that are known cost none."""
        return self.base.tokens(list_of(value))

    def with_policy(self, policy: Policy | None) -> Self:
        """The same student under another policy."""
        return replace(self, policy=policy)

    def golden_outputs(self) -> list[RankGolden]:
        """Neutral lists, nobody's data, with what this student says to them."""
        return [
            RankGolden(query=query, documents=list(documents), scores=self._fresh_scores(query, documents))
            for query, documents in GOLDEN_LISTS
        ]

    def told(self, record: StudentRecord) -> StudentRecord:
        """A record with the golden outputs of this very student.

        Raises:
            TypeError: it is another task's.
        """
        if not isinstance(record, RankRecord):
            message = f"a record of {record.task} for a student of rank"
            raise TypeError(message)
        return msgspec.structs.replace(record, golden=self.golden_outputs(), precision=self.encoder.precision)

    def check_golden(self) -> float:
        """The largest deviation from the scores that the trainer saw, as a share of their range, in either order."""
        worst = 0.0
        for one in self.golden:
            wanted = np.asarray(one.scores)
            spread = max(float(np.ptp(wanted)), _SMALLEST_RANGE)
            for turned in (slice(None), slice(None, None, -1)):
                found = np.asarray(self._fresh_scores(one.query, one.documents[turned]))
                off = float(np.abs(_centred(found) - _centred(wanted[turned])).max(initial=0.0)) / spread
                worst = max(worst, off) if np.isfinite(off) else float("inf")
        return worst

    def check_follows(self, serving: Self | None, *, removal_declared: bool) -> None:
        """See `store.student.loaded.Loaded`: another base or another length of lists changes no client's request."""

    def _fresh_scores(self, query: str, documents: Sequence[str]) -> list[float]:
        """Scores for which nothing comes out of a cache: what is checked is the encoder as well."""
        fresh = replace(
            self,
            base=self.base.fresh(),
            tuned=None if self.tuned is None else replace(self.tuned, base=self.tuned.base.fresh()),
        )
        (found,) = fresh.rankings([RankInput(query=query, documents=list(documents))])
        scores: list[float] = found.scores.tolist()
        return scores


def list_of(value: TaskInput) -> RankInput:
    """An input of `rank`.

    Raises:
        TypeError: it is another task's.
    """
    return narrow(value, RankInput, "a student of rank")


def _opinion(found: Ranking) -> RankOpinion:
    order: list[int] = found.order.tolist()
    return RankOpinion(
        output=msgspec.json.encode(order).decode(),
        confidence=found.confidence,
        uncertainty=1.0 - found.confidence,
        novelty=found.novelty,
        members=[_shown(one) for one in found.members],
        scores=_shown(found.scores),
        order=order,
    )


def _shown(scores: FloatArray) -> list[float]:
    shown: list[float] = scores.astype(np.float64).round(_DIGITS).tolist()
    return shown


def _centred(scores: FloatArray) -> FloatArray:
    """In double precision, so that the order of the documents is not seen in the mean."""
    centred: FloatArray = scores - np.float32(scores.mean(dtype=np.float64)) if len(scores) else scores
    return centred


def _check(manifest: Manifest) -> RankRecord:
    """The record, of a manifest that does not contradict itself; no file is read."""
    record = record_of(manifest, RankRecord)
    tuned = TUNED_NAME in manifest.files
    problems = {
        f"the first {record.k} places within {record.epsilon} is no agreement": record.k < 1
        or not 0.0 <= record.epsilon < float("inf"),
        f"a fine-tuned share of {record.tuned_share} does not fit its members": not 0.0 <= record.tuned_share <= 1.0
        or (record.tuned_share > 0.0 and not tuned),
        "its golden outputs are none, or do not fit their lists": not record.golden
        or any(len(one.scores) != len(one.documents) for one in record.golden),
    }
    check_whole(manifest, [*(ENCODER_FOLDER + name for name in ENCODER_FILES), HEAD_NAME, REFERENCE_NAME], problems)
    check_base(manifest)
    return record
