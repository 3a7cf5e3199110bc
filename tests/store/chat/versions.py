"""A small chatting student, and the files and manifest of a version of it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from msgspec import structs

from store.event import ChatInput, Message
from store.policy import Policy
from store.registry.manifest import BaseModel, Manifest, Preprocessing
from store.registry.students.records import ChatRecord
from store.student.chat.adapter import Trained
from store.student.chat.chatter import Chatter
from store.student.chat.decoder import Decoder
from store.student.chat.neighbours import Neighbours, opening_key, text_key
from store.student.chat.trust import (
    CONFIDENCE_NAME,
    EARLY_SIGNALS,
    NEIGHBOURS_NAME,
    NEIGHBOURS_TENSOR,
    NEIGHBOURS_VECTORS,
    OPENINGS_NAME,
    SIGNALS,
    Confidence,
    Early,
)
from store.student.chat.version import BASE_FOLDER
from store.student.classify import ENCODER_FOLDER
from store.student.encoder import Encoder
from store.student.folder import ENCODER_FILES
from store.student.rank.vectors import sentence_vectors
from store.tasks.chat import ChatTerms
from tests.store.drafts import LANE
from tests.tiny import tiny_encoder
from tests.tiny_decoders import tiny_decoder

KNOWN = ("my parcel is late", "reset my password", "money back please")
LONGEST = 80


def a_chat(text: str, **shape: Any) -> ChatInput:
    """A conversation of one question."""
    messages = [Message(role="system", content="Answer briefly."), Message(role="user", content=text)]
    return ChatInput(messages=messages, shape=shape)


def adapter_of(base: Decoder, *, layers: int = 2, rank: int = 4, seed: int = 0) -> Trained:
    """A random adapter of the top layers."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number in range(base.stack.layers - layers, base.stack.layers):
        for name, module in base.stack.modules[number].named_modules():
            if isinstance(module, torch.nn.Linear):
                path = f"base_model.model.model.layers.{number}.{name}"
                tensors[f"{path}.lora_A.weight"] = torch.randn(rank, module.in_features, generator=generator)
                tensors[f"{path}.lora_B.weight"] = 0.05 * torch.randn(module.out_features, rank, generator=generator)
    return Trained(first=base.stack.layers - layers, rank=rank, alpha=8, tensors=tensors)


def layers_of(base: Decoder) -> Trained:
    """The top layer in full, not far from where it was."""
    generator = torch.Generator().manual_seed(0)
    own = {name: value for name, value in base.model.named_parameters() if name.startswith("model.layers.3.")}
    moved = {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in own.items()}
    return Trained(first=3, rank=None, alpha=0, tensors=moved)


def early_of(seed: int = 0) -> Early:
    """Numbers by which a student is more or less sure before its answer is whole."""
    dice = np.random.default_rng(seed)
    heads = {
        moment: Confidence(
            mean=np.zeros(len(names)), scale=np.ones(len(names)), weight=dice.normal(size=len(names)), bias=0.3
        )
        for moment, names in EARLY_SIGNALS.items()
    }
    return Early(tokens=3, heads=heads)


def make_chatter(
    folder: Path, *, full: bool = False, policy: Policy | None = None, early: Early | None = None
) -> Chatter:
    """A student that knows three prompts; its base and its encoder lie in `folder`."""
    end = tiny_decoder(folder / "base", ends=(0, *range(40, 60)))
    base = Decoder.load(end, device="cpu", precision="fp32")
    encoder = Encoder.load(tiny_encoder(folder / "encoder"), device="cpu", precision="fp32", max_tokens=64)
    trained = layers_of(base) if full else adapter_of(base)
    return Chatter(
        decoder=trained.on(base),
        base_fingerprint=base.fingerprint,
        trained=trained,
        encoder=encoder,
        neighbours=Neighbours(
            vectors=sentence_vectors(encoder, KNOWN),
            answers=[text_key("yes"), text_key("no"), text_key('{"a": 1}')],
            openings=[opening_key([1, 2, 3])] * len(KNOWN) if early is not None else [],
        ),
        confidence=Confidence(mean=np.zeros(4), scale=np.ones(4), weight=np.array([0.1, 1.0, 2.0, -1.0]), bias=0.5),
        terms=ChatTerms(max_prompt_tokens=LONGEST, max_answer_tokens=10),
        policy=policy,
        early=early,
    )


def write_version(chatter: Chatter, folder: Path, draft: Path) -> Manifest:
    """Write the student's files into a draft folder; what its manifest says, without the files."""
    for source, target, names in (
        (folder / "base", BASE_FOLDER, None),
        (folder / "encoder", ENCODER_FOLDER, ENCODER_FILES),
    ):
        (draft / target).mkdir(parents=True)
        for path in source.iterdir():
            if names is None or path.name in names:
                (draft / target / path.name).write_bytes(path.read_bytes())
    chatter.trained.write(draft)
    numbers = chatter.confidence.arrays("end")
    if chatter.early is not None:
        for moment, head in chatter.early.heads.items():
            numbers |= head.arrays(moment)
        (draft / OPENINGS_NAME).write_text(json.dumps(list(chatter.neighbours.openings)))
    (draft / CONFIDENCE_NAME).write_bytes(safetensors.numpy.save(numbers))
    vectors = {NEIGHBOURS_TENSOR: chatter.neighbours.vectors.astype(np.float16)}
    (draft / NEIGHBOURS_VECTORS).write_bytes(safetensors.numpy.save(vectors))
    (draft / NEIGHBOURS_NAME).write_text(json.dumps(list(chatter.neighbours.answers)))
    template = json.loads((folder / "base" / "tokenizer_config.json").read_bytes())["chat_template"]
    record = ChatRecord(
        tokenizer=_sha256(folder / "base" / "tokenizer.json"),
        template=hashlib.sha256(template.encode()).hexdigest(),
        layers=chatter.decoder.stack.layers - chatter.trained.first,
        rank=chatter.trained.rank,
        max_prompt_tokens=chatter.terms.max_prompt_tokens,
        max_answer_tokens=chatter.terms.max_answer_tokens,
        signals=list(SIGNALS),
        deciding_tokens=0 if chatter.early is None else chatter.early.tokens,
        neighbours=len(chatter.neighbours.answers),
        golden=[],
    )
    told = chatter.told(record)
    return Manifest(
        lane=LANE,
        kind="fine_tune",
        parent=None,
        created_s=1_700_000_000.0,
        code_version="0.1.0",
        seed=7,
        base=BaseModel(name="tiny", sha256=_sha256(folder / "base" / "model.safetensors"), parameters=1000),
        served_parameters=chatter.served_parameters,
        preprocessing=Preprocessing(redacted=True, max_tokens=64),
        student=told,
        snapshot=None,
        verdict=None,
        policy=chatter.policy,
        topics=[],
        files={},
    )


def with_record(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest with another record."""
    return structs.replace(manifest, student=structs.replace(manifest.student, **changes))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
