"""Topics of the kept items: groups of the encoder's vectors, each named by its most telling words."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from store.near.neighbours import grouped
from store.near.words import words_of
from store.registry.manifest import Topic

FEWEST, MOST = 2, 30
_NAME_WORDS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Topics:
    """The topics, largest first, and where each row belongs."""

    topics: tuple[Topic, ...]
    of_row: npt.NDArray[np.int64]  # [rows] index into topics


def find_topics(
    vectors: npt.NDArray[np.floating],
    texts: Sequence[str],
    requests: Sequence[float],
    escalated: Sequence[float],
    *,
    seed: int,
    conflicted: Collection[int] = (),
) -> Topics:
    """Group rows by meaning. The same rows in the same order give the same topics.

    Args:
        vectors: [rows, d] pooled states of the encoder.
        texts: the rows' texts, redacted.
        requests: requests each row stands for (the sum of 1/propensity).
        escalated: of these, those that the student did not keep.
        seed: of the first centres.
        conflicted: rows that near neighbours contradict.
    """
    if not len(texts):
        return Topics(topics=(), of_row=np.empty(0, np.int64))
    count = min(len(texts), max(FEWEST, min(MOST, round(math.sqrt(len(texts) / 2)))))
    groups = grouped(vectors, count, seed=seed)
    mass = np.bincount(groups, np.asarray(requests, np.float64))
    handed_over = np.bincount(groups, np.asarray(escalated, np.float64))
    sizes = np.bincount(groups)
    torn = np.bincount(groups[sorted(conflicted)], minlength=len(sizes))
    order = sorted(np.flatnonzero(sizes).tolist(), key=lambda group: (-mass[group], group))
    names = _names([[text for text, g in zip(texts, groups, strict=True) if g == group] for group in order])
    topics = tuple(
        Topic(
            name=name,
            items=int(sizes[group]),
            requests=float(mass[group]),
            escalated_ratio=float(handed_over[group] / mass[group]) if mass[group] > 0 else 0.0,
            conflicts=int(torn[group]),
        )
        for name, group in zip(names, order, strict=True)
    )
    rank = np.zeros(len(sizes), np.int64)
    rank[order] = np.arange(len(order))
    return Topics(topics=topics, of_row=rank[groups])


def _names(topics: Sequence[Sequence[str]]) -> list[str]:
    """Each topic's most telling words: frequent in it, rare in the others (class-based tf-idf); no two names alike."""
    counts = [Counter(word for text in texts for word in set(words_of(text))) for texts in topics]
    overall = sum(counts, Counter())
    average = sum(overall.values()) / max(len(topics), 1)
    names: list[str] = []
    for number, count in enumerate(counts, start=1):
        scored = sorted(count, key=lambda word: (-count[word] * math.log1p(average / overall[word]), word))
        name = " ".join(scored[:_NAME_WORDS]) or "no words"
        names.append(name if name not in names else f"{name} ({number})")
    return names
