"""Each task's face, and the forms in which it is asked: the one place of the gateway in which a task is chosen."""

from collections.abc import Mapping, Sequence
from typing import Final

from serve.tasks.chat.face import Chat
from serve.tasks.classify.completions import LabelCompletions
from serve.tasks.classify.face import Classify
from serve.tasks.face import Face, Form
from serve.tasks.rank import Rank
from store.event import Task

TASKS: Final[Mapping[Task, Face]] = {"classify": Classify(), "rank": Rank(), "chat": Chat()}
_OTHERS: Final[Mapping[Task, Sequence[Form]]] = {"classify": (LabelCompletions(),)}


def forms(task: Task) -> Sequence[Form]:
    """The forms in which a lane of a task is asked: its own first."""
    return (TASKS[task], *_OTHERS.get(task, ()))


def form_at(task: Task, path: str) -> Form | None:
    """The form in which a lane of a task is asked at a path; None: it is not served there."""
    return next((form for form in forms(task) if path in form.paths), None)


PATHS: Final = {path: form.invalid_status for task in TASKS for form in forms(task) for path in form.paths}
"""Where anything is served, with what a wrong request is answered there."""
