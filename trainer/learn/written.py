"""The files of a version that stands on an encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import safetensors.torch
from torch import Tensor

from store.registry.manifest import Preprocessing
from store.registry.students.records import StudentRecord
from store.student.classify import ENCODER_FOLDER
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import ManifestParts, Student


def write_version(
    directory: Path,
    *,
    kind: Literal["head", "fine_tune"],
    base: BaseEncoder,
    files: Mapping[str, Mapping[str, Tensor]],
    student: Student,
    record: StudentRecord,
) -> ManifestParts:
    """Write a version's files and return what its manifest says of them.

    Args:
        directory: where to; made if absent.
        kind: of the cycle that made it.
        base: the encoder that it stands on, which is copied.
        files: the tensors of each of its own files, by name.
        student: that serves; the golden outputs are its.
        record: of it, without the golden outputs.
    """
    base.copy_to(directory / ENCODER_FOLDER)
    for name, tensors in files.items():
        (directory / name).write_bytes(safetensors.torch.save(dict(tensors)))
    return ManifestParts(
        kind=kind,
        base=base.record,
        served_parameters=student.served_parameters,
        preprocessing=Preprocessing(redacted=True, max_tokens=base.encoder.max_tokens),
        student=student.told(record),
    )
