"""A list's documents as they came and as they are kept, and what is told of them in either order."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import msgspec

from store.errors import WrongShapeError
from store.event import RankAnswer, StudentOpinion, canonical_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """How documents came, and how they are kept: by canonical text, then as they are written."""

    documents: list[str]  # as they are kept
    came: list[int]  # [n] kept place -> the place that it came at
    first: list[int]  # [n] place that it came at -> the first kept place of an equal document

    @staticmethod
    def of(documents: Sequence[str]) -> "Sorting":
        """Sort them."""
        canonical = [canonical_text(document) for document in documents]
        came = sorted(range(len(documents)), key=lambda place: (canonical[place], documents[place]))
        first, of_text = [0] * len(came), dict[str, int]()
        for kept, place in enumerate(came):
            first[place] = of_text.setdefault(canonical[place], kept)
        return Sorting(documents=[documents[place] for place in came], came=came, first=first)

    def answer(self, teacher: RankAnswer) -> RankAnswer:
        """A teacher's answer, told of the documents as they are kept."""
        return msgspec.structs.replace(
            teacher,
            scores=None if teacher.scores is None else self._scores(teacher.scores),
            order=None if teacher.order is None else self._order(teacher.order),
        )

    def student(self, student: StudentOpinion, order: Sequence[int]) -> StudentOpinion:
        """A student's opinion, told of the documents as they are kept."""
        return msgspec.structs.replace(
            student,
            output=msgspec.json.encode(self._order(order)).decode(),
            members=[self._scores(scores) for scores in student.members],
            logits=None if student.logits is None else self._scores(student.logits),
        )

    def _scores(self, scores: Sequence[float]) -> list[float]:
        """One number a document; of equal documents the highest first."""
        return [scores[place] for place in sorted(self.came, key=lambda place: (self.first[place], -scores[place]))]

    def _order(self, order: Sequence[int]) -> list[int]:
        """Places, best first; of equal documents the lowest first."""
        named: dict[int, int] = {}
        kept: list[int] = []
        for place in order:
            first = self.first[place]
            kept.append(first + named.get(first, 0))
            named[first] = named.get(first, 0) + 1
        return kept


def check_answer(teacher: RankAnswer, documents: int) -> None:
    """See that an answer is one of so many documents.

    Raises:
        WrongShapeError: it is none.
    """
    if (teacher.scores is None) == (teacher.order is None):
        message = "an answer of rank has either teacher.scores or teacher.order"
        raise WrongShapeError(message)
    if teacher.scores is not None:
        _check_scores(teacher.scores, documents, "teacher.scores")
    if teacher.order is not None:
        _check_order(teacher.order, documents, "teacher.order")


def _check_scores(scores: Sequence[float], documents: int, field: str) -> None:
    if len(scores) != documents or not all(map(isfinite, scores)):
        message = f"{field}: {len(scores)} numbers for {documents} documents; a finite one is wanted for each"
        raise WrongShapeError(message)


def _check_order(order: Sequence[int], documents: int, field: str) -> None:
    if not order or len(set(order)) != len(order) or not set(order) <= set(range(documents)):
        message = f"{field}: places from 0 to {documents - 1} are wanted, best first, each once at most"
        raise WrongShapeError(message)


def places_of_opinion(student: StudentOpinion, documents: int) -> list[int]:
    """The places that a student names, best first.

    Raises:
        WrongShapeError: its output is no order of so many documents, or its numbers are not one for each.
    """
    try:
        order = places(student.output)
    except msgspec.MsgspecError as error:
        message = "student.output: a JSON list of places is wanted, best first"
        raise WrongShapeError(message) from error
    _check_order(order, documents, "student.output")
    for scores in student.members if student.logits is None else [*student.members, student.logits]:
        _check_scores(scores, documents, "student.members or student.logits")
    return order


def places(output: str) -> list[int]:
    """The places in a student's output, best first."""
    return msgspec.json.decode(output, type=list[int])
