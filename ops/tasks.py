"""What commands must know of each task: the one place outside the readers where `ops` chooses by a task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.sections import LaneSection
from store.event import Task
from store.student.folder import check_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskKind:
    """A task, as commands see it."""

    has_labels: bool = False  # there is a list of what the teacher may answer
    has_catalogue: bool = False  # its questions offer documents, which can be embedded before anybody asks
    has_model: bool = False  # its student grows on a language model that the lane names
    prompt: str | None  # of a chat teacher, to begin with; None: its teacher is sent the client's own messages
    check_base: Callable[[Path, str], None] = lambda _directory, _named: None  # more than any encoder's folder must be
    said_in: str  # where another producer's event holds the teacher's answer
    agreement: Callable[[LaneSection], str]  # when two answers are the same, in words: printed with the promise


def _same_ranking(section: LaneSection) -> str:
    first = "first place" if section.rank.k == 1 else f"each of the first {section.rank.k} places"
    return f"{first} within {section.rank.epsilon:g} of the teacher's own score"


_LABELS: Final = """\
You sort the messages that customers write to a support desk.
Answer with exactly one of these labels and nothing else: $labels

Message: $text
Label:"""
_ORDER: Final = """\
You order what a shop offers by how well it fits what a customer looks for.
Answer with the numbers of all offers, the best first, as a JSON list and nothing else, like [3, 1, 2].

Customer: $query

Offers:
$documents

Order:"""

TASKS: Final[Mapping[Task, TaskKind]] = {
    "classify": TaskKind(
        has_labels=True, prompt=_LABELS, said_in="teacher.label", agreement=lambda _: "the same label"
    ),
    "rank": TaskKind(
        has_catalogue=True,
        prompt=_ORDER,
        check_base=check_ranks,
        said_in="teacher.scores or teacher.order",
        agreement=_same_ranking,
    ),
    "chat": TaskKind(
        has_model=True, prompt=None, said_in="teacher.text", agreement=lambda _: "the same JSON, or the same words"
    ),
}
