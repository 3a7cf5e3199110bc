"""Which part replays a log: the one place in `ops/backtest` where a task is chosen. Workers alone import it."""

from collections.abc import Mapping
from typing import Final

from ops.backtest.tasks.chat import ChatPart
from ops.backtest.tasks.classify import ClassifyPart
from ops.backtest.tasks.part import Part
from ops.backtest.tasks.rank import RankPart
from store.event import Task

TASKS: Final[Mapping[Task, Part]] = {"classify": ClassifyPart(), "rank": RankPart(), "chat": ChatPart()}
