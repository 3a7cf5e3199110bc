"""Queries, documents and orders in words."""

from collections.abc import Sequence
from typing import Final

from ops.console.tasks.words import LINES, Question, cut
from store.event import RankInput, TaskInput
from store.tasks.documents import places
from store.tasks.narrow import narrow
from store.tasks.rank import heard

_DOCUMENT: Final = 120  # characters
_FIRST: Final = 3  # places that are named


class RankWords:
    """Satisfies `ops.console.tasks.words.Words`."""

    def question(self, value: TaskInput) -> Question:
        """The query, with the documents that are offered."""
        offered = _input(value)
        return Question(
            text=cut(offered.query),
            beside=tuple(cut(document, _DOCUMENT) for document in offered.documents[:LINES]),
            left_out=max(0, len(offered.documents) - LINES),
        )

    def answer(self, value: TaskInput, said: str) -> list[str]:
        """The first documents, with the teacher's scores where it gave some."""
        (found,) = heard([said])
        return _first(_input(value), found.best_first, found.scores)

    def output(self, value: TaskInput, output: str) -> list[str]:
        """The first documents."""
        return _first(_input(value), places(output), None)


def _first(offered: RankInput, order: Sequence[int], scores: Sequence[float] | None) -> list[str]:
    told = []
    for number, place in enumerate(order[:_FIRST], start=1):
        score = "" if scores is None else f" ({scores[place]:.3g})"
        told.append(f"{number}. {cut(offered.documents[place], _DOCUMENT)}{score}")
    return told


def _input(value: TaskInput) -> RankInput:
    return narrow(value, RankInput, "a lane of rank")
