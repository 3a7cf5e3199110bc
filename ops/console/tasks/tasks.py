"""The tasks that the console can show."""

from collections.abc import Mapping
from typing import Final

from ops.console.tasks.chat import ChatWords
from ops.console.tasks.classify import ClassifyWords
from ops.console.tasks.rank import RankWords
from ops.console.tasks.words import Words
from store.event import Task

TASKS: Final[Mapping[Task, Words]] = {"classify": ClassifyWords(), "rank": RankWords(), "chat": ChatWords()}
