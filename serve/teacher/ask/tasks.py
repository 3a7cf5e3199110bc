"""How each task's teacher is asked, by its kind: the one place in this room where a task is chosen."""

from collections.abc import Callable, Mapping
from typing import Final

from serve.settings import LaneSettings
from serve.teacher.ask.asking import Asking
from serve.teacher.ask.classify import AskForLabel
from serve.teacher.ask.judge import AskForVerdict
from serve.teacher.ask.prompts import TeacherKind
from serve.teacher.ask.rank import AskForOrder
from serve.teacher.ask.reply import AskForReply
from serve.teacher.ask.rerank import AskForScores
from store.event import Task

TASKS: Final[Mapping[Task, Mapping[TeacherKind, Callable[[LaneSettings], Asking]]]] = {
    "classify": {"chat": lambda lane: AskForLabel(lane.teacher, lane.terms.labels)},
    "rank": {
        "chat": lambda lane: AskForOrder(lane.teacher),
        "rerank": lambda lane: AskForScores(lane.teacher),
    },
    "chat": {"chat": lambda lane: AskForReply(lane.teacher)},
}


def asking_of(lane: LaneSettings) -> Asking:
    """How the lane's teacher is asked."""
    return TASKS[lane.task][lane.teacher.kind](lane)


JUDGES: Final[Mapping[Task, Callable[[LaneSettings], AskForVerdict | None]]] = {
    "chat": lambda lane: AskForVerdict(lane.teacher) if lane.terms.chat.referee == "teacher" else None,
}


def judge_of(lane: LaneSettings) -> AskForVerdict | None:
    """How the lane's teacher is asked whether two answers agree; None: rules tell, or the lane wants no referee."""
    found = JUDGES.get(lane.task)
    return None if found is None else found(lane)
