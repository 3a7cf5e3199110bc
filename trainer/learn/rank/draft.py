"""A fitted ranking student that is not yet a version: it answers in memory, and writes a version's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor
from torch.nn import functional

from store.policy import Policy
from store.registry.students.records import RankRecord
from store.student.classify import HEAD_NAME, REFERENCE_NAME, REFERENCE_TENSOR, TUNED_NAME
from store.student.rank.bases import shared_base
from store.student.rank.head import RankHead
from store.student.rank.ranker import Ranker, TunedRanker
from store.tasks.rank import Tolerance
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import ManifestParts
from trainer.learn.written import write_version


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankDraft:
    """Satisfies `trainer.learn.recipe.Draft`."""

    kind: Literal["head", "fine_tune"]
    base: BaseEncoder
    head: RankHead
    tuned: TunedRanker | None
    reference: Tensor  # [references, hidden], float16
    record: RankRecord  # without the golden outputs

    @property
    def learned(self) -> Mapping[str, int]:
        """How many lists were learned from."""
        return {"lists": self.record.rows}

    def student(self, policy: Policy | None = None) -> Ranker:
        """The student in memory, as a gateway will load it."""
        return Ranker(
            base=shared_base(self.base.encoder),
            head=self.head,
            reference=functional.normalize(self.reference.float(), dim=-1).numpy(),
            tolerance=Tolerance(k=self.record.k, epsilon=self.record.epsilon),
            tuned=self.tuned,
            tuned_share=self.record.tuned_share,
            policy=policy,
            made_in=self.record.precision,
            tuned_rows=self.record.tuned_rows,
        )

    def write(self, directory: Path, policy: Policy | None = None) -> ManifestParts:
        """Write the version's files and return what its manifest says of them; see `trainer.learn.recipe.Draft`."""
        files = {HEAD_NAME: self.head.tensors(), REFERENCE_NAME: {REFERENCE_TENSOR: self.reference}}
        if self.tuned is not None:
            files[TUNED_NAME] = self.tuned.tensors()
        return write_version(
            directory, kind=self.kind, base=self.base, files=files, student=self.student(policy), record=self.record
        )
