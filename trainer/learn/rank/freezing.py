"""How items of `rank` become rows: lists of one query that mostly hold the same documents are one question."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from store.event import RankInput, TaskInput, canonical_text
from store.near.link import Links
from store.tasks.rank import document_key
from store.tasks.rules import TaskRules
from trainer.snapshot import Row

_MOST: Final = 0.5  # of the longer list's documents, and two lists are one question
_COMPARED: Final = 64  # lists of one query that a list is compared with, the nearest in content order
_LABEL_HEX_DIGITS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFreezing:
    """Satisfies `trainer.snapshot.Freezing`."""

    rules: TaskRules

    def words(self, value: TaskInput) -> str:
        """The canonical query: topics are of what is asked."""
        return canonical_text(value.query) if isinstance(value, RankInput) else self.rules.words(value)

    def label(self, answers: Mapping[str, int]) -> str:
        """A name of the answers: equal for equal ones."""
        return hashlib.sha256("\0".join(sorted(answers)).encode()).hexdigest()[:_LABEL_HEX_DIGITS]

    def soft(self, answers: Mapping[str, int]) -> None:  # noqa: ARG002 - answers are no labels here
        """Answers are no labels."""
        return

    def conflicted(self, answers: Mapping[str, int]) -> bool:
        """Whether an answer's own order is another ranking by another answer."""
        return self.rules.conflicted(answers)

    def links(self, rows: Sequence[Row]) -> Links:
        """Lists of the same query with most documents equal."""
        held = [_held(row.input) for row in rows]
        by_query: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            by_query.setdefault(row.words, []).append(place)
        pairs = []
        for places in by_query.values():
            order = sorted(places, key=lambda place: sorted(held[place].elements()))
            for at, one in enumerate(order):
                pairs += [
                    (one, other) for other in order[at + 1 : at + 1 + _COMPARED] if _alike(held[one], held[other])
                ]
        return Links(clusters=_clusters(len(rows), pairs), contrasts=(), exact_only=0)

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:  # noqa: ARG002 - as the protocol has it
        """None."""
        return ()

    def learns(self, row: Row, labels: Collection[str]) -> bool:  # noqa: ARG002 - as the protocol has it
        """Whether there is anything to tell apart."""
        return isinstance(row.input, RankInput) and len(row.input.documents) > 1


def _held(value: TaskInput) -> Counter[str]:
    return Counter(map(document_key, value.documents)) if isinstance(value, RankInput) else Counter()


def _alike(one: Counter[str], other: Counter[str]) -> bool:
    return (one & other).total() > _MOST * max(one.total(), other.total())


def _clusters(rows: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """[rows] numbers of what is connected, counted from 0 in the order of first appearance."""
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(rows, rows))
    _, found = connected_components(graph, directed=False)
    first: dict[int, int] = {}
    return np.array([first.setdefault(int(one), len(first)) for one in found], np.int64)
