"""A version of `rank` as this release writes one, with what it answers: kept beside the other golden files."""

import tempfile
from pathlib import Path
from shutil import copytree
from typing import Any, Final

import msgspec

from store.event import RankInput
from store.registry.manifest import MANIFEST_NAME, canonical_json
from store.registry.sealed import decode_manifest
from store.student.loaded import RankOpinion
from store.student.tasks import load
from tests.contracts.loaded import of_rank
from tests.golden.stored import read_json, write_json
from tests.store.test_student import FakeVersion

FOLDER: Final = "ranking"
_ANSWERS: Final = "answers.json"


def write_ranking(target: Path, kept: Path | None) -> None:
    """Write it into `target`; `kept` is a release's folder that has it already, and is copied."""
    if kept is not None and (kept / FOLDER).is_dir():
        copytree(kept / FOLDER, target / FOLDER)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = of_rank(Path(folder))
    student = load(made.version, device="cpu", precision="fp32")
    for name, data in {**made.version.contents, MANIFEST_NAME: canonical_json(made.version.manifest)}.items():
        (target / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (target / FOLDER / name).write_bytes(data)
    write_json(
        target / FOLDER / _ANSWERS,
        [_answer(*pair) for pair in zip(made.inputs, student.look(made.inputs), strict=True)],
    )


def _answer(value: Any, opinion: Any) -> dict[str, Any]:
    assert isinstance(opinion, RankOpinion)
    said = {
        "scores": opinion.scores,
        "order": opinion.order,
        "confidence": opinion.confidence,
        "novelty": opinion.novelty,
    }
    return {"input": msgspec.to_builtins(value), **said}


def kept_version(release: Path) -> FakeVersion:
    """The version of a release."""
    folder = release / FOLDER
    manifest = decode_manifest((folder / MANIFEST_NAME).read_bytes())
    return FakeVersion(manifest, {name: (folder / name).read_bytes() for name in manifest.files})


def kept_answers(release: Path) -> list[tuple[RankInput, dict[str, Any]]]:
    """What it was asked, with what it said."""
    found = read_json(release / FOLDER / _ANSWERS)
    return [(msgspec.convert(one["input"], RankInput), one) for one in found]
