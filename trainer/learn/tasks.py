"""How a student is learned, task by task: the one place in this room where a task is chosen.

What a schedule asks needs no torch; a recipe is imported where a cycle runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from store.event import Task
from trainer.due import Ripeness


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A task that is learned."""

    ripe: Ripeness  # when the first fine-tuning is due
    recipe: Callable[[], Any]  # of `trainer.learn.recipe.Recipe`, which needs torch


def _recipe(module: str) -> Callable[[], Any]:
    return lambda: import_module(module).RECIPE


TASKS: Final[dict[Task, Learned]] = {
    "classify": Learned(ripe=Ripeness(), recipe=_recipe("trainer.learn.classify.recipe")),
    "chat": Learned(
        ripe=Ripeness(items=200, items_per_label=0, head_alone=False), recipe=_recipe("trainer.learn.chat.recipe")
    ),
    "rank": Learned(ripe=Ripeness(items=400, items_per_label=0), recipe=_recipe("trainer.learn.rank.recipe")),
}
