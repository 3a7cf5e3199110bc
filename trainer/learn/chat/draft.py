"""A fitted chatting student that is not yet a version: it answers in memory, and writes a version's files."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.numpy

from store.errors import CorruptVersionError, SettingsError, SwapRefusedError
from store.policy import Policy
from store.registry.manifest import BaseModel, Preprocessing
from store.registry.students.records import ChatRecord
from store.student.chat.adapter import Trained
from store.student.chat.chatter import Chatter
from store.student.chat.decoder import Decoder
from store.student.chat.folder import BASE_FILES, GENERATION_NAME, SETTINGS_NAME, find_decoder
from store.student.chat.neighbours import Neighbours
from store.student.chat.trust import (
    CONFIDENCE_NAME,
    NEIGHBOURS_NAME,
    NEIGHBOURS_TENSOR,
    NEIGHBOURS_VECTORS,
    OPENINGS_NAME,
    Confidence,
    Early,
)
from store.student.chat.version import BASE_FOLDER
from store.student.classify import ENCODER_FOLDER
from store.student.encoder import Precision
from store.student.folder import TOKENIZER_NAME, WEIGHTS_NAME
from store.tasks.chat import ChatTerms
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import ManifestParts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaseDecoder:
    """The decoder that students start from, and where its files are."""

    name: str
    directory: Path
    sha256: str  # of its weights file
    tokenizer: str  # sha256 of its tokenizer.json
    template: str  # sha256 of its chat template
    decoder: Decoder

    @staticmethod
    def open(setting: str, *, kept: Path | None = None, device: str, precision: Precision) -> "BaseDecoder":
        """Load the decoder that a setting names.

        Raises:
            SettingsError: it is not there, or no decoder that can be run.
        """
        directory = find_decoder(setting, "lanes.student.model", kept=kept)
        try:
            decoder = Decoder.load(directory, device=device, precision=precision)
            settings = json.loads((directory / SETTINGS_NAME).read_bytes())
        except (CorruptVersionError, SwapRefusedError) as error:
            message = f"lanes.student.model: {directory} is no decoder that can be run: {error}"
            raise SettingsError(message) from error
        return BaseDecoder(
            name=directory.name,
            directory=directory,
            sha256=_sha256(directory / WEIGHTS_NAME),
            tokenizer=_sha256(directory / TOKENIZER_NAME),
            template=hashlib.sha256(settings["chat_template"].encode()).hexdigest(),
            decoder=decoder,
        )

    def copy_to(self, folder: Path) -> None:
        """Put its files into a version's folder: under another name where the disk allows it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*BASE_FILES, GENERATION_NAME):
            source = (self.directory / name).resolve()  # a hub's folder holds links
            if not source.is_file():
                continue
            try:
                os.link(source, folder / name)
            except OSError:  # another disk
                shutil.copyfile(source, folder / name)

    @property
    def record(self) -> BaseModel:
        """What the manifest says of it."""
        parameters = sum(parameter.numel() for parameter in self.decoder.model.parameters())
        return BaseModel(name=self.name, sha256=self.sha256, parameters=parameters)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChatDraft:
    """Satisfies `trainer.learn.recipe.Draft`."""

    kind: Literal["head", "fine_tune"]
    base: BaseDecoder
    encoder: BaseEncoder  # the small one, for novelty and neighbours
    trained: Trained
    adapted: Decoder  # the base with what was trained
    neighbours: Neighbours
    confidence: Confidence
    early: Early | None  # None: it is sure of whole answers alone
    record: ChatRecord  # without the golden outputs

    @property
    def learned(self) -> Mapping[str, int]:
        """How many answers were learned from."""
        return {"answers": self.record.rows}

    def student(self, policy: Policy | None = None) -> Chatter:
        """The student in memory, as a gateway will load it."""
        return Chatter(
            decoder=self.adapted,
            base_fingerprint=self.base.decoder.fingerprint,
            trained=self.trained,
            encoder=self.encoder.encoder,
            neighbours=self.neighbours,
            confidence=self.confidence,
            early=self.early,
            terms=ChatTerms(
                max_prompt_tokens=self.record.max_prompt_tokens,
                max_answer_tokens=self.record.max_answer_tokens,
            ),
            record=self.record,
            policy=policy,
        )

    def write(self, directory: Path, policy: Policy | None = None) -> ManifestParts:
        """Write the version's files and return what its manifest says of them; see `trainer.learn.recipe.Draft`."""
        self.base.copy_to(directory / BASE_FOLDER)
        self.encoder.copy_to(directory / ENCODER_FOLDER)
        self.trained.write(directory)
        vectors = {NEIGHBOURS_TENSOR: self.neighbours.vectors.astype(np.float16)}
        (directory / NEIGHBOURS_VECTORS).write_bytes(safetensors.numpy.save(vectors))
        numbers = self.confidence.arrays("end")
        if self.early is not None:
            for name, head in self.early.heads.items():
                numbers |= head.arrays(name)
            (directory / OPENINGS_NAME).write_text(json.dumps(list(self.neighbours.openings)))
        (directory / CONFIDENCE_NAME).write_bytes(safetensors.numpy.save(numbers))
        (directory / NEIGHBOURS_NAME).write_text(json.dumps(list(self.neighbours.answers)))
        student = self.student(policy)
        return ManifestParts(
            kind=self.kind,
            base=self.base.record,
            served_parameters=student.served_parameters,
            preprocessing=Preprocessing(redacted=True, max_tokens=self.encoder.encoder.max_tokens),
            student=student.told(self.record),
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
