"""A challenger that is the champion over again: nothing to publish, nothing to promote, and its audits go on."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from store.registry.manifest import SNAPSHOT_NAME, Manifest, answers_key, canonical_json
from store.registry.sealed import OpenVersion, files_of_draft
from trainer.snapshot import Snapshot
from trainer.work import CycleSettings, LaneTraining


def recipe_of(training: LaneTraining, settings: CycleSettings, base_sha256: str, code_version: str) -> str:
    """What else than the rows a version and its policy follow from: with the same rows, the same student."""
    parts = {
        "base": base_sha256,
        "code": code_version,
        "max_tokens": settings.max_tokens,
        "precision": settings.precision,
        "seed": settings.seed,
        "min_items_per_label": settings.min_items_per_label,
        "novelty_quantile": settings.novelty_quantile,
        "split": settings.split,
        "policy": training.policy,
        "target": training.target,
        "confidence": training.confidence,
        "prompt_version": training.prompt_version,
        "metric": training.metric,
        "tolerance": training.terms.tolerance,
    }
    if settings.model is not None:
        parts |= {"model": settings.model, "terms": training.terms.chat}
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def same_rows(snapshot: Snapshot, champion: OpenVersion) -> bool:
    """Whether a cycle has drawn just what the champion was made from: the same questions, answers and splits."""
    if SNAPSHOT_NAME not in champion.manifest.files:
        return False
    before = msgspec.json.decode(champion.read(SNAPSHOT_NAME))
    return tuple(before["labels"]) == snapshot.labels and {_named(row) for row in before["rows"]} == {
        (row.item_id, row.split, row.label) for row in snapshot.rows
    }


def nothing_new(kind: str, snapshot: Snapshot, recipe: str, champion: OpenVersion) -> str | None:
    """Why a fit could only make the champion over again; None where it could make another student.

    Args:
        kind: of the cycle, `head` or `fine_tune`.
        snapshot: what it has drawn.
        recipe: of `recipe_of`.
        champion: the version that serves.
    """
    if champion.manifest.student.recipe != recipe or not same_rows(snapshot, champion):
        return None
    if kind == "fine_tune" and champion.manifest.kind != "fine_tune":
        return None  # its slow member has not seen these rows, if it has one
    return f"nothing new to learn from: the champion {champion.id} was made from the same {len(snapshot.rows)} rows"


def answers_alike(folder: Path, manifest: Manifest, champion: OpenVersion) -> str | None:
    """Why a draft is the champion over again: the same weights under the same policy; None where it is not.

    Args:
        folder: the draft's files.
        manifest: what the draft says of itself.
        champion: the version that serves.
    """
    sha256 = {name: _sha256(path) for name, path in files_of_draft(folder).items()}
    before = {name: entry.sha256 for name, entry in champion.manifest.files.items()}
    if answers_key(manifest, sha256) != answers_key(champion.manifest, before):
        return None
    if _promised(manifest) != _promised(champion.manifest):
        return None  # the same answers, certified for something else: that is worth a version
    return f"it answers as the champion {champion.id} does: the same weights under the same policy"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _promised(manifest: Manifest) -> tuple[float, float] | None:
    policy = manifest.policy
    return None if policy is None else (policy.target, policy.confidence_level)


def _named(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["id"], row["split"], row["label"]
