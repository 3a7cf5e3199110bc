"""One cycle without its stores: freeze, fit, calibrate, judge. What the service runs is what a backtest runs.

Pure up to the features it asks for: the same items, lineage and settings give the same student and the same verdict.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from store.buffer.item import Item
from store.control import CycleKind
from store.policy import Policy
from store.registry.manifest import Verdict
from trainer.judge.verdicts import judge_challenger
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import Draft, Features, Frozen, Lineage, Recipe, Rival, Student
from trainer.learn.tasks import TASKS
from trainer.snapshot import Snapshot, freeze
from trainer.work import CycleSettings, LaneTraining, Tell, held_out, tell_nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A challenger and what was found of it."""

    frozen: Frozen
    draft: Draft
    policy: Policy
    verdict: Verdict
    anchor: bool  # its lower bound is the best so far

    @property
    def trained(self) -> frozenset[str]:
        """Ids of the items it was trained on."""
        return frozenset(row.item_id for row in self.frozen.snapshot.split("train"))


def freeze_rows(
    items: Iterable[Item],
    lineage: Lineage,
    *,
    training: LaneTraining,
    settings: CycleSettings,
    base: BaseEncoder,
    features: Features,
    now_s: float,
    positions: Mapping[str, str],
) -> Frozen:
    """The items as rows, with what answers to them are computed from.

    Args:
        items: the lane's kept items.
        lineage: what the champion knows stays.
        training: the lane's.
        settings: the cycle's.
        base: the encoder.
        features: of the items.
        now_s: Unix seconds.
        positions: "topic uuid/partition" -> position up to which the log had been applied.
    """
    recipe: Recipe = TASKS[training.task].recipe()
    champion = lineage.champion.student if lineage.champion is not None else None
    snapshot = draw_rows(items, champion, training=training, settings=settings, now_s=now_s, positions=positions)
    return recipe.freeze(snapshot, base, features, training=training, settings=settings)


def draw_rows(
    items: Iterable[Item],
    champion: Student | None,
    *,
    training: LaneTraining,
    settings: CycleSettings,
    now_s: float,
    positions: Mapping[str, str],
) -> Snapshot:
    """The rows that a cycle draws now; arguments as of `freeze_rows`."""
    recipe: Recipe = TASKS[training.task].recipe()
    return freeze(
        items,
        recipe.freezing(training, settings, champion),
        prompt_version=training.prompt_version,
        split=held_out(training, settings),
        quarantine_s=settings.quarantine_s,
        now_s=now_s,
        seed=settings.seed,
        positions=positions,
        allowed_labels=training.labels,
        rules=training.readings,
    )


def attempt(
    kind: CycleKind,
    frozen: Frozen,
    lineage: Lineage,
    *,
    training: LaneTraining,
    settings: CycleSettings,
    tell: Tell = tell_nobody,
) -> Attempt:
    """Fit a challenger on frozen rows and judge it.

    Args:
        kind: `head`, or `fine_tune`: warm where the champion has a fine-tuned member.
        frozen: of `freeze_rows`.
        lineage: what came before.
        training: the lane's.
        settings: the cycle's.
        tell: told how far it has come.

    Raises:
        NotEnoughLabelsError: there is nothing to learn from yet.
    """
    recipe: Recipe = TASKS[training.task].recipe()
    draft = recipe.fit(kind, frozen, lineage, settings=settings, tell=tell)
    tell("judging", None)
    challenger = Rival(
        student=draft.student(), trained=frozenset(row.item_id for row in frozen.snapshot.split("train"))
    )
    crossed = None
    if training.policy == "budget" and lineage.champion is not None:
        crossed = recipe.cross_fitted(frozen, draft, lineage.champion)
    policy, verdict, anchor = judge_challenger(training, settings, frozen, challenger, lineage, crossed)
    return Attempt(frozen=frozen, draft=draft, policy=policy, verdict=verdict, anchor=anchor)
