"""What commands must know of each task: the one place outside the readers where `ops` chooses by a task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ops.sections import LaneSection
from store.event import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A task, as commands see it."""

    has_labels: bool = False  # there is a list of what the teacher may answer
    has_catalogue: bool = False  # its questions offer documents, which can be embedded before anybody asks
    agreement: Callable[[LaneSection], str]  # when two answers are the same, in words: printed with the promise


def _same_ranking(section: LaneSection) -> str:
    first = "first place" if section.rank.k == 1 else f"each of the first {section.rank.k} places"
    return f"{first} within {section.rank.epsilon:g} of the teacher's own score"


TASKS: Final[Mapping[Task, Kind]] = {
    "classify": Kind(has_labels=True, agreement=lambda _: "the same label"),
    "rank": Kind(has_catalogue=True, agreement=_same_ranking),
    "chat": Kind(agreement=lambda _: "the same text"),
}
