"""Keys, manifests and drafts that the registry's tests share."""

from pathlib import Path
from typing import Any

import msgspec

from store.event import Lane
from store.registry.manifest import BaseModel, Manifest, Preprocessing, canonical_json
from store.registry.registry import Registry
from store.registry.signing import SigningKey, TrustedKeys, public_path
from store.registry.students.records import ClassifyRecord, Golden
from store.registry.versions import Versions

LANE = Lane("acme", "intents")
OTHER_LANE = Lane("acme", "topics")
ENCODER_BYTES = bytes(range(256)) * 4096  # 1 MiB


def make_keys(folder: Path, name: str = "trainer") -> tuple[SigningKey, TrustedKeys]:
    """A new key, and the trust in it alone."""
    trusted = folder / "trusted"
    trusted.mkdir(parents=True, exist_ok=True)
    path = folder / name
    key = SigningKey.create(path, name)
    (trusted / f"{name}.pub").write_bytes(public_path(path).read_bytes())
    return key, TrustedKeys.load(trusted)


def make_manifest(**changes: Any) -> Manifest:
    """A manifest of LANE without files; changes of the student's record are told from the others by their names."""
    manifest = Manifest(
        lane=LANE,
        kind="head",
        parent=None,
        created_s=1_700_000_000.0,
        code_version="0.1.0",
        seed=7,
        base=BaseModel(name="tiny", sha256="0" * 64, parameters=1000),
        served_parameters=1000,
        preprocessing=Preprocessing(redacted=True, max_tokens=128),
        student=ClassifyRecord(
            labels=["refund", "cancel"],
            pool_weights=[1.0],
            golden=[Golden(text="a refund, please", probs=[0.9, 0.1])],
        ),
        snapshot=None,
        verdict=None,
        policy=None,
        topics=[],
        files={},
    )
    own = {name: changes.pop(name) for name in list(changes) if name in ClassifyRecord.__struct_fields__}
    return msgspec.structs.replace(manifest, student=msgspec.structs.replace(manifest.student, **own), **changes)


def of_schema_1(manifest: Manifest) -> dict[str, Any]:
    """What release 0.1.0 would have written of the same student."""
    told = msgspec.json.decode(canonical_json(manifest))
    student = told.pop("student")
    own = {name: student.pop(name) for name in ("task", "labels", "pool_weights", "golden")}
    return {**told, **own, "schema": 1, "training": student}


def make_draft(folder: Path, head: bytes = b"head one", encoder: bytes = b"encoder") -> Path:
    """A draft folder with files at two depths."""
    (folder / "encoder").mkdir(parents=True)
    (folder / "head.safetensors").write_bytes(head)
    (folder / "encoder" / "model.safetensors").write_bytes(encoder)
    (folder / "encoder" / "config.json").write_bytes(b'{"hidden_size":8}')
    return folder


def make_versions(folder: Path) -> tuple[Versions, SigningKey]:
    """An empty registry under `folder` for LANE."""
    key, trusted = make_keys(folder / "keys")
    return Registry(folder / "registry", trusted).versions(LANE), key
