"""A fitted student that is not yet a version: it answers in memory, and writes a version's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor
from torch.nn import functional

from store.policy import Policy
from store.registry.students.records import ClassifyRecord
from store.student.classify import (
    HEAD_NAME,
    REFERENCE_NAME,
    REFERENCE_TENSOR,
    TUNED_NAME,
    Student,
)
from store.student.head import Head
from store.student.tuned import Tuned
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import ManifestParts
from trainer.learn.written import write_version


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """A fitted student that is not yet a version."""

    kind: Literal["head", "fine_tune"]
    base: BaseEncoder
    head: Head
    tuned: Tuned | None
    reference: Tensor  # [references, hidden], float16
    record: ClassifyRecord  # without the golden outputs, which depend on the policy

    @property
    def labels(self) -> tuple[str, ...]:
        """The label map."""
        return tuple(self.record.labels)

    @property
    def learned(self) -> Mapping[str, int]:
        """Training items of each label."""
        return self.record.label_items

    def student(self, policy: Policy | None = None) -> Student:
        """The student in memory, as a gateway will load it."""
        return Student(
            encoder=self.base.encoder,
            labels=self.labels,
            head=self.head,
            tuned=self.tuned,
            pool_weights=tuple(self.record.pool_weights),
            reference=functional.normalize(self.reference.float(), dim=-1),
            policy=policy,
            made_in=self.record.precision,
            tuned_rows=self.record.tuned_rows,
        )

    def write(self, directory: Path, policy: Policy | None = None) -> ManifestParts:
        """Write the version's files and return what its manifest says of them.

        Args:
            directory: where to; made if absent.
            policy: the calibrated one; the golden outputs are those of the student that serves with it.
        """
        files = {HEAD_NAME: self.head.tensors(), REFERENCE_NAME: {REFERENCE_TENSOR: self.reference}}
        if self.tuned is not None:
            files[TUNED_NAME] = self.tuned.tensors()
        return write_version(
            directory, kind=self.kind, base=self.base, files=files, student=self.student(policy), record=self.record
        )
