"""The tasks that the demo plays."""

from collections.abc import Mapping
from typing import Final

from ops.demo.tasks.chat import SmartHome
from ops.demo.tasks.classify import SupportDesk
from ops.demo.tasks.play import DemoTask
from ops.demo.tasks.rank import Shop
from store.event import Task

TASKS: Final[Mapping[Task, DemoTask]] = {"classify": SupportDesk(), "rank": Shop(), "chat": SmartHome()}
