"""The tasks that this release keeps, and the rules of each for a lane's own terms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from store.event import Task
from store.tasks.chat import ChatRules, ChatTerms
from store.tasks.classify import ClassifyRules
from store.tasks.rank import RankRules, Tolerance
from store.tasks.rules import TaskRules


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTerms:
    """What a lane's settings say about its answers; each task reads what it knows."""

    labels: tuple[str, ...] = ()  # that an answer may be; none: any
    earlier: tuple[str, ...] = ()  # that were on the list once, and are kept: rulings tell how they are read
    tolerance: Tolerance = field(default_factory=Tolerance)  # what is called the same ranking
    chat: ChatTerms = field(default_factory=ChatTerms)  # how far a student reads and writes


TASKS: Final[Mapping[Task, Callable[[LaneTerms], TaskRules]]] = {
    "classify": lambda terms: ClassifyRules(labels=terms.labels, earlier=terms.earlier),
    "rank": lambda terms: RankRules(tolerance=terms.tolerance),
    "chat": lambda _: ChatRules(),
}

BEFORE_NOTES: Final[tuple[Task, ...]] = ("classify",)
"""What ingest of the releases kept that did not note what they keep."""
