"""One cycle without its stores: freeze, fit, calibrate, judge. What the service runs is what a backtest runs.

Pure up to the features it asks for: the same items, lineage and settings give the same student and the same verdict.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from msgspec import structs

from store.buffer.item import Item
from store.control import CycleKind
from store.policy import Policy
from store.registry.manifest import Verdict
from store.student.encoder import Encoder, FloatArray
from trainer.judge.verdicts import CrossFitted, Frozen, Lineage, Rival, decide, new_rows
from trainer.learn.draft import Draft
from trainer.learn.features import BaseEncoder
from trainer.learn.fit import FineTuneMode, FitSettings, cross_fit, fit
from trainer.snapshot import freeze
from trainer.work import CycleSettings, LaneTraining, Tell, tell_nobody


class Features(Protocol):
    """Where the base encoder's features of items come from."""

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[str]) -> FloatArray:
        """[n, features], in the order of the ids."""


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
    """The items as rows with features. A lane that promises nothing holds nothing out, and waits for no label.

    Args:
        items: the lane's kept items.
        lineage: the champion's labels stay, in their order.
        training: the lane's.
        settings: the cycle's.
        base: the encoder.
        features: of the items.
        now_s: Unix seconds.
        positions: "topic uuid/partition" -> position up to which the log had been applied.
    """
    promises = training.policy == "promise"
    snapshot = freeze(
        items,
        prompt_version=training.prompt_version,
        labels_min=settings.min_items_per_label if promises else 1,
        split=settings.split if promises else replace(settings.split, calibrate_ratio=0.0, judge_ratio=0.0),
        quarantine_s=settings.quarantine_s,
        now_s=now_s,
        seed=settings.seed,
        positions=positions,
        known_labels=lineage.champion.student.labels if lineage.champion is not None else (),
        allowed_labels=training.labels,
        rules=training.rules,
    )
    found = features.features(base.encoder, [row.item_id for row in snapshot.rows], [row.text for row in snapshot.rows])
    return Frozen(snapshot=snapshot, base=base, features=found)


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
        NotEnoughLabelsError: there is nothing to tell apart yet.
    """
    previous = lineage.champion.student if lineage.champion is not None else None
    mode: FineTuneMode = "none"
    if kind == "fine_tune":
        mode = "warm" if previous is not None and previous.tuned is not None else "fresh"
    draft = fit(
        frozen.snapshot.rows,
        frozen.features,
        labels=frozen.snapshot.labels,
        base=frozen.base,
        previous=previous,
        settings=FitSettings(threads=settings.threads),
        seed=settings.seed,
        fine_tune=mode,
        label_maps=lineage.label_maps,
        tell=tell,
    )
    tell("judging", None)
    challenger = Rival(
        student=draft.student(), trained=frozenset(row.item_id for row in frozen.snapshot.split("train"))
    )
    crossed = _cross_fitted(frozen, draft, lineage) if training.policy == "budget" else None
    policy, verdict, anchor = decide(training, settings, frozen, challenger, lineage, crossed)
    return Attempt(frozen=frozen, draft=draft, policy=policy, verdict=verdict, anchor=anchor)


def _cross_fitted(frozen: Frozen, draft: Draft, lineage: Lineage) -> CrossFitted | None:
    """The challenger's recipe on rows it did not see: a head from the other rows, the champion's fine-tuned member."""
    champion = lineage.champion
    if champion is None:
        return None
    unseen = frozenset(new_rows(frozen.snapshot, champion))

    def probs(places: Sequence[int]) -> FloatArray:
        if not set(places) <= unseen:
            message = "only rows that are new to the champion are cross-fitted"
            raise ValueError(message)
        tuned = champion.student.tuned
        if tuned is not None and draft.tuned is not None:
            recipe = replace(draft, tuned=tuned)
        else:
            recipe = replace(draft, tuned=None, record=structs.replace(draft.record, pool_weights=[1.0]))
        result = np.empty((len(places), len(draft.labels)), np.float32)
        halves = _halves([frozen.snapshot.rows[place].cluster for place in places])
        parts = [[places[index] for index in half] for half in halves]
        fitted = cross_fit(frozen.snapshot.rows, frozen.features, parts, draft)
        for half, part, head in zip(halves, parts, fitted, strict=True):
            result[half] = frozen.predict(replace(recipe, head=head).student(), part).probs
        return result

    return probs


def _halves(clusters: Sequence[int]) -> list[list[int]]:
    """Places in two halves, empty ones left out: linked rows share one, or each would tell of the other."""
    number = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    halves = [[place for place, cluster in enumerate(clusters) if number[cluster] % 2 == half] for half in (0, 1)]
    return [half for half in halves if half]
