"""Each task's face: the one place of the gateway in which a task is chosen."""

from collections.abc import Mapping
from typing import Final

from serve.tasks.chat.face import Chat
from serve.tasks.classify import Classify
from serve.tasks.face import Face
from serve.tasks.rank import Rank
from store.event import Task

TASKS: Final[Mapping[Task, Face]] = {"classify": Classify(), "rank": Rank(), "chat": Chat()}
