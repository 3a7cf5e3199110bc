"""How far a teacher's scores lie apart, and from its own when it is asked again: what a tolerance is proposed by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from statistics import quantiles
from typing import Final

from ops.readers.lists.values import Said
from store.tasks.rank import document_key

_MOST_QUESTIONS: Final = 200_000  # that are remembered
_MOST_SCORES: Final = 2_000_000
_NOISES: Final = 2.0  # sigmas of the teacher that count as nothing
_OF_SPREAD: Final = 0.05


@dataclass(slots=True)
class Spread:
    """What a log's scores are like, list by list; an order tells nothing of it."""

    _scores: list[float] = field(default_factory=list)
    _first: dict[str, Mapping[str, float]] = field(default_factory=dict)  # question -> each document's first score
    _squares: float = 0.0  # of differences between two answers to one question
    _pairs: int = 0

    def add(self, question: str, documents: tuple[str, ...], said: Said) -> None:
        """Take a list; `question` is the same for two that are one question."""
        if said.scores is None:
            return
        if len(self._scores) < _MOST_SCORES:
            self._scores.extend(said.scores)
        by_document = {document_key(text): score for text, score in zip(documents, said.scores, strict=True)}
        before = self._first.get(question)
        if before is not None:
            self._squares += sum((by_document[key] - score) ** 2 for key, score in before.items() if key in by_document)
            self._pairs += sum(key in by_document for key in before)
        elif len(self._first) < _MOST_QUESTIONS:
            self._first[question] = by_document

    @property
    def sigma(self) -> float | None:
        """How far the teacher's score of a document lies from one time to the next; None: no question came twice."""
        return sqrt(self._squares / self._pairs / 2.0) if self._pairs else None

    @property
    def range(self) -> tuple[float, float] | None:
        """The first and the last percentile of its scores; None: it gave none."""
        if not self._scores:
            return None
        if len(self._scores) == 1:
            return self._scores[0], self._scores[0]
        hundredths = quantiles(self._scores, n=100, method="inclusive")
        return hundredths[0], hundredths[-1]

    @property
    def epsilon(self) -> float | None:
        """The tolerance to propose: twice the teacher's own noise, or a twentieth of its range if that is more."""
        if (found := self.range) is None:
            return None
        return max(_NOISES * (self.sigma or 0.0), _OF_SPREAD * (found[1] - found[0]))

    @property
    def told(self) -> str:
        """The same in words; nothing where there is no score."""
        if (found := self.range) is None or self.epsilon is None:
            return ""
        noise = "no question came twice, so its noise is not known"
        if self.sigma is not None:
            noise = f"asked again it is off by {self.sigma:.3g} (one standard deviation)"
        return (
            f"98 of 100 of the teacher's scores lie between {found[0]:.3g} and {found[1]:.3g}; {noise}: a tolerance of"
            f" {self.epsilon:.2g} is proposed (lanes.rank.epsilon)"
        )
