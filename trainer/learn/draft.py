"""A fitted student that is not yet a version: it answers in memory, and writes a version's files."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from store.policy import Policy
from store.registry.manifest import BaseModel, Preprocessing
from store.registry.records import ClassifyRecord
from store.student.classify import (
    ENCODER_FOLDER,
    HEAD_NAME,
    MAX_REFERENCES,
    REFERENCE_NAME,
    REFERENCE_TENSOR,
    TUNED_NAME,
    Student,
)
from store.student.encoder import FloatArray
from store.student.folder import ENCODER_FILES
from store.student.head import Head
from store.student.tuned import Tuned
from trainer.learn.features import BaseEncoder

_OPTIONAL_FILES: Final = (
    "tokenizer_config.json",
    "special_tokens_map.json",
)  # for other tools; nothing here reads them
_REFERENCE_POOL: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestParts:
    """What a draft knows of its manifest; the cycle adds snapshot, verdict, policy and the rest."""

    kind: Literal["head", "fine_tune"]
    base: BaseModel
    served_parameters: int
    preprocessing: Preprocessing
    student: ClassifyRecord


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
        encoder = directory / ENCODER_FOLDER
        encoder.mkdir(parents=True, exist_ok=True)
        for name in (*ENCODER_FILES, *_OPTIONAL_FILES):
            if (self.base.directory / name).is_file():
                shutil.copyfile(self.base.directory / name, encoder / name)
        files = {HEAD_NAME: self.head.tensors(), REFERENCE_NAME: {REFERENCE_TENSOR: self.reference}}
        if self.tuned is not None:
            files[TUNED_NAME] = self.tuned.tensors()
        for name, tensors in files.items():
            (directory / name).write_bytes(safetensors.torch.save(tensors))
        student = self.student(policy)
        return ManifestParts(
            kind=self.kind,
            base=self.base.record,
            served_parameters=student.served_parameters,
            preprocessing=Preprocessing(redacted=True, max_tokens=self.base.encoder.max_tokens),
            student=msgspec.structs.replace(self.record, golden=student.golden_outputs()),
        )


def reference_vectors(pooled: FloatArray, *, seed: int, size: int = MAX_REFERENCES) -> Tensor:
    """At most `size` rows of [n, hidden], float16, such that no row is far from all of them (Gonzalez 1985).

    Greedy k-centre rather than a random draw: a draw would miss rare topics, whose questions would then look novel for
    ever. The novelty threshold is calibrated afterwards, so the outliers that k-centre keeps do no harm.
    """
    rows = torch.from_numpy(pooled)
    if len(rows) > _REFERENCE_POOL:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), _REFERENCE_POOL, replace=False))
        rows = rows[torch.from_numpy(chosen)]
    if len(rows) <= size:
        return rows.half().contiguous()
    centre = int((rows @ rows.mean(dim=0)).argmax())
    picked, nearest = [centre], rows @ rows[centre]
    while len(picked) < size:
        farthest = int(nearest.argmin())
        picked.append(farthest)
        nearest = torch.maximum(nearest, rows @ rows[farthest])
    return rows[torch.tensor(picked)].half().contiguous()
