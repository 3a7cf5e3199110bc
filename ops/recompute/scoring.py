"""What a version's signed policy and verdict come to when its frozen held-out rows are scored anew.

Nothing is learned, published or asked for: what a referee said then is a file of the version, and who was not judged
then is not judged now.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from store.buffer.item import Item
from store.errors import UnderstudyError
from store.policy import Policy
from store.registry.manifest import SNAPSHOT_NAME, VERDICTS_NAME, Manifest, Verdict
from store.registry.moves import Move, fold
from store.registry.registry import Registry
from trainer.cycle import base_of, lineage_of, rival_of
from trainer.judge.verdicts import judge_challenger
from trainer.learn.recipe import Recipe
from trainer.learn.tasks import TASKS
from trainer.snapshot import SplitSettings, ThawError, thaw
from trainer.work import CycleWork, drawing_of, tell_nobody

TOLERANCE: Final = 0.01  # of a confidence, a share of traffic or of agreement: other hardware rounds otherwise


class NotRecomputableError(UnderstudyError):
    """What the numbers followed from is not there any more, or never was. Never retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """One version."""

    rows: int  # held out, that were scored anew
    differing: Sequence[str]  # a sentence for each number that does not come out
    tolerance: float = TOLERANCE


def recompute(work: CycleWork, version: str, items: Sequence[Item], registry: Registry) -> Recomputed:
    """Score a version's held-out rows anew, and compare what comes out with what it says.

    Args:
        work: of a cycle of the lane as the settings are now; what the version itself says goes before.
        version: its id.
        items: the lane's kept items.
        registry: of the lane.

    Raises:
        NotRecomputableError: it was made without rows that are held out, or they are gone.
        RegistryError: the version, or one that it was compared with, is not to be trusted.
    """
    versions = registry.versions(work.training.lane)
    opened = versions.open(version)
    manifest = opened.manifest
    if manifest.policy is None or manifest.verdict is None or manifest.snapshot is None:
        message = f"version {version} was never judged"
        raise NotRecomputableError(message)
    if manifest.kind == "candidate":
        message = f"version {version} is a candidate, which was judged by rows that are not its own"
        raise NotRecomputableError(message)
    if SNAPSHOT_NAME not in manifest.files:
        message = f"version {version} has no {SNAPSHOT_NAME}: it was made elsewhere, and its rows are not known here"
        raise NotRecomputableError(message)
    content = opened.read(SNAPSHOT_NAME)
    held = manifest.snapshot.calibrate + manifest.snapshot.judge
    if not held:
        message = f"version {version} held nothing out: its lane only had a budget, and promised nothing"
        raise NotRecomputableError(message)
    before = _until(registry.moves(work.training.lane).read(), version, manifest.created_s)
    split = msgspec.convert(msgspec.json.decode(content)["split"], SplitSettings)
    then = _as_then(work, manifest, manifest.policy, manifest.verdict, split, fold(before).anchor)
    champion = versions.open(then.champion) if then.champion is not None else None
    lineage = lineage_of(then, before, versions, champion)
    challenger, recipe = rival_of(opened, then), _recipe(then)
    try:
        snapshot = thaw(
            content,
            items,
            recipe.freezing(then.training, then.settings, lineage.champion.student if lineage.champion else None),
            record=manifest.snapshot,
            drawing=drawing_of(then.training, then.settings, then.now_s),
            split=split,
        )
    except ThawError as error:
        message = f"version {version} cannot be recomputed: {error}"
        raise NotRecomputableError(message) from error
    with TemporaryDirectory(prefix="understudy-recompute-") as folder:
        features = recipe.cache(Path(folder) / "lane" / "own", tell_nobody)
        base = base_of(then.training.task, then.settings)
        frozen = recipe.freeze(snapshot, base, features, training=then.training, settings=then.settings)
        if frozen.verdicts is not None and VERDICTS_NAME in manifest.files:
            frozen.verdicts.read(opened.read(VERDICTS_NAME))
        policy, verdict, _ = judge_challenger(then.training, then.settings, frozen, challenger, lineage, None)
    return Recomputed(rows=held, differing=[*_policies(manifest.policy, policy), *_verdicts(manifest.verdict, verdict)])


def _until(moves: Sequence[Move], version: str, created_s: float) -> list[Move]:
    """The moves that its cycle saw: before any that names it, and not later than it was made (Unix seconds)."""
    own = next((place for place, move in enumerate(moves) if move.version == version), len(moves))
    return [move for move in moves[:own] if move.time_s <= created_s]


def _as_then(
    work: CycleWork, manifest: Manifest, policy: Policy, verdict: Verdict, split: SplitSettings, anchor: str | None
) -> CycleWork:
    """The cycle that judged a version, as far as the version and the moves before it tell."""
    settings = work.settings
    return replace(
        work,
        champion=manifest.parent,
        anchor=anchor,
        now_s=manifest.created_s,
        training=replace(work.training, policy="promise", target=policy.target, confidence=policy.confidence_level),
        settings=replace(
            settings,
            seed=manifest.seed,
            split=split,
            limits=replace(settings.limits, delta=verdict.delta),
        ),
    )


def _recipe(work: CycleWork) -> Recipe:
    found: Recipe = TASKS[work.training.task].recipe()
    return found


def _policies(signed: Policy, found: Policy) -> Iterator[str]:
    for name in ("temperature", "threshold", "novelty_threshold", "coverage_ratio", "lower"):
        yield from _off(name.replace("_", " "), getattr(signed, name), getattr(found, name))
    for moment, then in signed.early.items():
        now = found.at(moment)
        for name in ("threshold", "coverage_ratio", "lower"):
            yield from _off(
                f"{name.replace('_', ' ')} by {moment.replace('_', ' ')}", getattr(then, name), getattr(now, name)
            )


def _verdicts(signed: Verdict, found: Verdict) -> Iterator[str]:
    if signed.outcome != found.outcome:
        yield f"the verdict is signed as {signed.outcome}, and comes out as {found.outcome}"
    if signed.rows_judged != found.rows_judged:
        yield f"{signed.rows_judged} judged rows are signed, and {found.rows_judged} come out"
    for name in ("student_agreement", "difference", "lower"):
        yield from _off(f"{name.replace('_', ' ')} of the verdict", getattr(signed, name), getattr(found, name))


def _off(name: str, signed: float | None, found: float | None) -> Iterator[str]:
    if signed is None and found is None:
        return
    if signed is None or found is None or not abs(signed - found) <= TOLERANCE:
        yield f"{name} is signed as {_told(signed)}, and comes out as {_told(found)}"


def _told(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
