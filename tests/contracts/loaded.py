"""A small version of each task, for the contract that every loaded student keeps."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import safetensors.torch
import torch

from store.event import RankInput, TaskInput, TextInput
from store.registry.manifest import BaseModel, FileEntry, Manifest, Preprocessing
from store.registry.students.records import RankRecord
from store.student.chat.adapter import ADAPTER_WEIGHTS
from store.student.chat.trust import CONFIDENCE_NAME, NEIGHBOURS_VECTORS
from store.student.encoder import Encoder
from store.student.folder import ENCODER_FILES
from store.student.rank.bases import features_of, load_base, shared_base
from store.student.rank.head import RankHead
from store.student.rank.ranker import Ranker, TunedRanker
from store.student.rank.vectors import sentence_vectors
from store.tasks.rank import Tolerance, document_key
from tests.store.chat.versions import a_chat, make_chatter, write_version
from tests.store.drafts import LANE
from tests.store.test_student import FakeVersion, student_on, version_of
from tests.tiny import tiny_cross_encoder, tiny_encoder


@dataclass(frozen=True, kw_only=True)
class Made:
    """A version, with what can be asked of it and what it cannot read whole."""

    version: FakeVersion
    inputs: Sequence[TaskInput]
    long: TaskInput
    members: int = 2
    tensors: Sequence[str] = ("head.safetensors", "reference.safetensors", "tuned.safetensors")


def of_classify(folder: Path) -> Made:
    base = tiny_encoder(folder)
    encoder = Encoder.load(base, device="cpu", precision="fp32", max_tokens=32)
    texts = ("my parcel is late", "reset the password please", "the courier has my money", "?")
    return Made(
        version=version_of(student_on(encoder), base),
        inputs=[TextInput(text=text) for text in texts],
        long=TextInput(text="my " * 60),
    )


def of_rank(folder: Path) -> Made:
    return rank_on(tiny_encoder(folder, seed=1))


def of_cross_encoder(folder: Path) -> Made:
    return rank_on(tiny_cross_encoder(folder, seed=1))


def rank_on(base: Path) -> Made:
    """On whatever base lies there."""
    encoder = load_base(base, device="cpu", precision="fp32", max_tokens=32)
    lists = [
        RankInput(query=query, documents=documents)
        for query, documents in (
            ("my parcel is late", ["the courier", "a password", "money back", "the address", "a code"]),
            ("reset", ["email code", "account locked"]),
            ("money", ["refund"]),
            (
                "help with my account",
                [f"{word} today" for word in ("money", "parcel", "reset", "late", "code", "twice")],
            ),
        )
    ]
    return Made(
        version=version_of_ranker(ranker_on(encoder), base),
        inputs=lists,
        long=RankInput(query="money", documents=["refund", "my " * 60]),
    )


def of_chat(folder: Path) -> Made:
    student = make_chatter(folder / "made")
    manifest = write_version(student, folder / "made", folder / "draft")
    paths = [path for path in (folder / "draft").rglob("*") if path.is_file()]
    contents = {str(path.relative_to(folder / "draft")): path.read_bytes() for path in paths}
    files = {n: FileEntry(sha256=hashlib.sha256(d).hexdigest(), size_bytes=len(d)) for n, d in contents.items()}
    return Made(
        version=FakeVersion(msgspec.structs.replace(manifest, files=files), contents),
        inputs=[a_chat(text) for text in ("my parcel is late", "reset", "?", "help with my account")],
        long=a_chat("my " * 60),
        members=1,
        tensors=(ADAPTER_WEIGHTS, CONFIDENCE_NAME, NEIGHBOURS_VECTORS),
    )


def ranker_on(encoder: Encoder) -> Ranker:
    """A random ranking student with both members."""
    dice = np.random.default_rng(0)
    own = dict(encoder.with_changed({}).named_parameters())
    names = [name for name in own if "layer.3" in name]
    torch_dice = torch.Generator().manual_seed(0)
    changed = {name: own[name] + 0.05 * torch.randn(own[name].shape, generator=torch_dice) for name in names}
    return Ranker(
        base=shared_base(encoder),
        head=RankHead(
            slope=0.9,
            sigma=0.1,
            weight=dice.normal(0.0, 0.1, features_of(encoder)).astype(np.float32),
            items={document_key("a code"): 0.2},
        ),
        reference=sentence_vectors(encoder, ["reset", "money"]),
        tolerance=Tolerance(k=2, epsilon=0.02),  # no default
        tuned=TunedRanker.on(encoder, changed, 0.8),
        tuned_share=0.5,
        made_in=encoder.precision,
    )


def version_of_ranker(student: Ranker, base: Path) -> FakeVersion:
    """What a trainer would publish."""
    assert student.tuned is not None
    contents = {f"encoder/{name}": (base / name).read_bytes() for name in ENCODER_FILES}
    contents["head.safetensors"] = safetensors.torch.save(student.head.tensors())
    contents["reference.safetensors"] = safetensors.torch.save({"reference": torch.from_numpy(student.reference)})
    contents["tuned.safetensors"] = safetensors.torch.save(student.tuned.tensors())
    files = {n: FileEntry(sha256=hashlib.sha256(d).hexdigest(), size_bytes=len(d)) for n, d in contents.items()}
    record = student.told(
        RankRecord(
            k=student.tolerance.k,
            epsilon=student.tolerance.epsilon,
            scored=True,
            tuned_share=student.tuned_share,
            golden=[],
        )
    )
    manifest = Manifest(
        lane=LANE,
        kind="fine_tune",
        parent=None,
        created_s=0.0,
        code_version="test",
        seed=0,
        base=BaseModel(name="tiny", sha256=files["encoder/model.safetensors"].sha256, parameters=1),
        served_parameters=student.served_parameters,
        preprocessing=Preprocessing(redacted=True, max_tokens=student.encoder.max_tokens),
        student=record,
        snapshot=None,
        verdict=None,
        policy=student.policy,
        topics=[],
        files=files,
    )
    return FakeVersion(manifest, contents)


MAKERS: dict[str, Callable[[Path], Made]] = {
    "classify": of_classify,
    "rank": of_rank,
    "rank on a cross-encoder": of_cross_encoder,
    "chat": of_chat,
}
