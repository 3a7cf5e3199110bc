"""The ranking student: a query and documents in, their order, scores, confidence and novelty out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from store.student.encoder import FloatArray
from store.student.rank.head import RankHead, confidence
from store.student.rank.vectors import VectorCache, sentence_vectors
from store.tasks.measures import Places, best_first
from store.tasks.rank import Tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What the student says to one list of n documents."""

    scores: FloatArray  # [n], in the order of the documents
    order: Places  # [n], best first
    confidence: float  # that the teacher's ranking is the same, by the tolerance
    novelty: float  # of the query: 1 - cosine to the nearest reference vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranker:
    """One version in memory. Immutable; several threads may rank with it at once."""

    vectors: VectorCache
    head: RankHead
    reference: FloatArray  # [references, hidden], queries that it was trained on, each of length 1
    tolerance: Tolerance

    def rank(self, query: str, documents: Sequence[str]) -> Ranking:
        """Rank redacted documents for a redacted query. The order in which documents are given changes no score."""
        asked = sentence_vectors(self.vectors.encoder, [query])[0]
        found, keys = self.vectors.documents(documents)
        scores = self.head.scores(asked, found, keys)
        return Ranking(
            scores=scores,
            order=best_first(scores, keys),
            confidence=confidence(scores, self.head.sigma, self.tolerance),
            novelty=max(0.0, 1.0 - float((self.reference @ asked).max(initial=-1.0))),
        )

    def too_long(self, query: str, documents: Sequence[str]) -> bool:
        """Whether the student would not read all of one of the texts."""
        return any(self.vectors.encoder.too_long(text) for text in (query, *documents))

    def parameters(self) -> int:
        """How many distinct numbers are in service."""
        base = sum(parameter.numel() for parameter in self.vectors.encoder.model.parameters())
        return int(base + np.size(self.head.weight) + len(self.head.items) + 2)
