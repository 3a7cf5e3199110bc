"""How a verified version is loaded, task by task: the one place in this room where a task is chosen."""

from collections.abc import Mapping
from typing import Final, Protocol

from store.event import Task
from store.student.chat.chatter import Chatter
from store.student.classify import Opened, Student
from store.student.encoder import Precision
from store.student.loaded import Loaded
from store.student.rank.ranker import Ranker


class Loader(Protocol):
    """Builds a student from a verified version; nothing but safetensors and JSON is read."""

    def __call__(self, opened: Opened, *, device: str = "auto", precision: Precision = "auto") -> Loaded:
        """The student in memory.

        Raises:
            CorruptVersionError: the files and the record do not fit together.
            SwapRefusedError: this release cannot run such a student here.
        """


TASKS: Final[Mapping[Task, Loader]] = {"classify": Student.load, "rank": Ranker.load, "chat": Chatter.load}


def load(opened: Opened, *, device: str = "auto", precision: Precision = "auto") -> Loaded:
    """The student in a verified version, whatever its task; raises as a `Loader` does."""
    return TASKS[opened.manifest.task](opened, device=device, precision=precision)
