"""When a cycle is due, and what its verdict comes to: pure decisions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from store.control import CycleKind, CycleRequest, TrainingState
from store.registry.manifest import Outcome
from store.registry.moves import Standing
from trainer.work import CycleResult

LEARNABLE_ITEMS: Final = 10  # of a label, for it to count among the learned ones
_NEW_LABELS_RATIO: Final = 1.2  # so many times the labels it learned, and the fine-tuned member has fallen behind
_NEW_LABELS_GROWTH: Final = 1.15
_FEW_ITEMS: Final = 225  # a member made of fewer is soon outgrown
_FEW_ITEMS_GROWTH: Final = 1.25
_AGE_RATIO: Final = 1.75  # a lane so many times as old as at its last fine-tuning is due even where labels come slowly


@dataclass(frozen=True, slots=True, kw_only=True)
class Ripeness:
    """How many items the first fine-tuning of a task waits for: with fewer the member is worse than the head."""

    items: int = 150
    items_per_label: int = 20
    head_alone: bool = True  # makes a student; else nothing can serve before the first fine-tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings:
    """When a cycle is due. Items are distinct questions that a cycle has drawn, or would now; each is one label."""

    tick_s: float  # how often the daemon looks
    every_s: float  # a cycle at least this often, where there is anything new
    min_new_labels: int
    growth_ratio: float  # a head cycle when items have grown by this share
    fine_tune: bool
    fine_tune_growth_ratio: float  # fine-tuning each time items have grown to this multiple, or less where few
    lease_s: float
    cycle_timeout_s: float
    head_first: bool = False  # where nothing serves, a head (seconds) goes before the fine-tuning that is due (minutes)


def due(
    standing: Standing,
    state: TrainingState,
    *,
    items: int,
    labels: int,
    request: CycleRequest | None,
    now_s: float,
    settings: ScheduleSettings,
    ripe: Ripeness = Ripeness(),
) -> CycleKind | None:
    """Which cycle is due, if any. What a person asked for comes first and runs even while paused.

    Where a head alone makes no student and nothing serves yet, whoever asks for a head gets a fine-tuning.

    Args:
        standing: where the moves have led.
        state: what the schedule remembers.
        items: rows that cycles have drawn, and those that one would draw now besides (`trainer.news`).
        labels: labels there may be to tell apart, for as long as no cycle has found any.
        request: what a person asked for.
        now_s: Unix seconds.
        settings: when.
        ripe: of the lane's task.
    """
    has_head = ripe.head_alone or standing.champion is not None
    if request is not None:
        return request.kind if has_head or request.kind != "head" else "fine_tune"
    if standing.paused or standing.candidates:
        return None if standing.paused else "candidate"
    fresh = items - state.items_at_cycle
    grown = _grown(items, state.items_at_cycle, settings)
    if settings.fine_tune or not has_head:
        enough = items >= _fine_tune_at(state, labels, settings, ripe)
        outlived = _outlived(state, now_s, settings) and _grown(items, state.items_at_fine_tune, settings)
        if enough and grown and settings.head_first and has_head and standing.champion is None:
            return "head"
        owed = enough and settings.head_first  # a head has drawn the rows that made it due
        if owed or (fresh > 0 and (enough or outlived)):
            return "fine_tune"
    overdue = fresh > 0 and now_s - state.last_cycle_s >= settings.every_s and state.last_cycle_s > 0
    if has_head:
        return "head" if grown or overdue else None
    return "fine_tune" if overdue else None


def _grown(items: int, before: int, settings: ScheduleSettings) -> bool:
    return items - before >= max(settings.min_new_labels, settings.growth_ratio * items)


def _outlived(state: TrainingState, now_s: float, settings: ScheduleSettings) -> bool:
    """Whether a fine-tuned member has served for three quarters of the time that it took to come about."""
    if not state.fine_tuned_s:
        return False
    taken_s = state.fine_tuned_s - state.first_cycle_s
    if taken_s <= 0.0:  # out of an import: nothing came before it
        taken_s = settings.every_s
    return now_s - state.first_cycle_s >= _AGE_RATIO * taken_s


def _fine_tune_at(state: TrainingState, labels: int, settings: ScheduleSettings, ripe: Ripeness) -> float:
    if not state.items_at_fine_tune:
        first = max(ripe.items, ripe.items_per_label * (state.labels or labels))
        return max(first, settings.min_new_labels)
    growth = settings.fine_tune_growth_ratio
    if state.items_at_fine_tune < _FEW_ITEMS:
        growth = min(growth, _FEW_ITEMS_GROWTH)
    if state.learned_labels > _NEW_LABELS_RATIO * state.learned_at_fine_tune:
        growth = min(growth, _NEW_LABELS_GROWTH)
    return state.items_at_fine_tune + max((growth - 1.0) * state.items_at_fine_tune, settings.min_new_labels)


def settle(result: CycleResult, before: Standing, now: Standing) -> tuple[Outcome, list[str]]:
    """The outcome that counts: a pass is `held` where a person has the last word, or the ground has moved."""
    outcome, refusals = result.verdict.outcome, list(result.verdict.refusals)
    if outcome != "pass":
        return outcome, refusals
    if now.pinned:
        return "held", ["passed, but the champion is pinned; `understudy resume` lets automation promote again"]
    if now.champion != before.champion:
        return "held", [f"passed against {before.champion}, but {now.champion} is the champion now"]
    return "pass", refusals


def after(
    state: TrainingState, kind: CycleKind, *, items: int, label_items: Mapping[str, int], now_s: float
) -> TrainingState:
    """What to remember once a cycle of this kind has ended. Labels are never lost.

    Args:
        state: what was remembered before.
        kind: of the cycle.
        items: of `due`, when it began.
        label_items: training items of each label that its version knows; none where no version was made.
        now_s: Unix seconds.
    """
    if kind == "candidate":
        return msgspec.structs.replace(state, last_cycle_s=now_s)
    learned = sum(count >= LEARNABLE_ITEMS for count in label_items.values())
    found = msgspec.structs.replace(
        state,
        items_at_cycle=items,
        labels=max(len(label_items), state.labels),
        learned_labels=max(learned, state.learned_labels),
        first_cycle_s=min(state.first_cycle_s, now_s) or (now_s if label_items else 0.0),
        last_cycle_s=now_s,
    )
    if kind == "fine_tune":
        found = msgspec.structs.replace(
            found,
            items_at_fine_tune=items,
            learned_at_fine_tune=found.learned_labels,
            fine_tuned_s=now_s if label_items else state.fine_tuned_s,
        )
    return found
