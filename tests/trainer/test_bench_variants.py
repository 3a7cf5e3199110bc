"""The learners that benchmarks compare with do what they say: they train once, and they do train."""

from dataclasses import replace

import pytest

from ops.backtest.records import Ask
from ops.backtest.replay import DEFAULT_SCHEDULE
from store.control import TrainingState
from store.registry.moves import Standing
from tests.bench.variants import BASELINES
from trainer.due import after, due


@pytest.mark.parametrize(("name", "first"), [("head_trained_once", 199), ("one_off_training", 391)])
def test_a_baseline_that_trains_once_does_so_when_its_share_is_spent(name: str, first: int) -> None:
    variant = BASELINES[name]
    ask = variant.ask(Ask(budget=400, seed=1))
    schedule = replace(variant.schedule(DEFAULT_SCHEDULE, ask), fine_tune=ask.fine_tune, head_first=False)  # as `Play`
    state, cycles = TrainingState(), []
    for items in range(1, 401):
        kind = due(Standing(), state, items=items, labels=7, request=None, now_s=float(items), settings=schedule)
        if kind is not None:
            cycles.append(items)
            state = after(state, kind, items=items, label_items=dict.fromkeys("abcdefg", 10), now_s=float(items))
    assert cycles == [first]
