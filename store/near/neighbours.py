"""Neighbours among the small encoder's vectors: who is nearest, who is answered otherwise, and what belongs together.

The one module that knows FAISS. Search is exact: a lane keeps tens of thousands of items, and a flat index of them
answers in milliseconds. Vectors tell meaning and not letters: they miss typos and take "invoice 17" for "invoice 71".
So what may be linked is `store.near.link`'s to say, and pairs with other protected tokens are no conflicts.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from store.near.guard import guard

faiss.cvar.distance_compute_blas_threshold = 20
"""Without it faiss 1.15 is ten times slower than need be on batches of a few hundred. Set here and nowhere else."""

NEAREST: Final = 10
SAME_QUESTION: Final = 0.05
"""Cosine distance within which two texts with the same protected tokens ask the same, for small encoders."""
_ITERATIONS: Final = 20

Vectors = npt.NDArray[np.floating]
Places = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Near(NamedTuple):
    """The nearest ones, nearest first."""

    places: Places  # [asked, k] among the vectors that are held
    cosines: npt.NDArray[np.float32]  # [asked, k]


class Neighbours:
    """Vectors that are asked who is near. Immutable; several threads may ask at once."""

    def __init__(self, vectors: Vectors) -> None:
        """Hold vectors [n, size]; their length does not matter."""
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(units(vectors))

    def __len__(self) -> int:
        """How many are held."""
        return int(self._index.ntotal)

    def nearest(self, vectors: Vectors, k: int = NEAREST) -> Near:
        """The k nearest to each of [asked, size] by cosine; all of them where fewer are held."""
        most = min(k, len(self))
        if not most or not len(vectors):
            return Near(np.empty((len(vectors), most), np.int64), np.empty((len(vectors), most), np.float32))
        cosines, places = self._index.search(units(vectors), most)
        return Near(places, cosines)

    def agreeing(self, vectors: Vectors, answers: Sequence[str], said: Sequence[str], k: int = NEAREST) -> Floats:
        """[asked] share of the k nearest whose answer is what is said; 0 where none are held.

        Args:
            vectors: [asked, size].
            answers: of the vectors that are held, one each.
            said: of the vectors that are asked about, one each.
            k: how many neighbours count.
        """
        places = self.nearest(vectors, k).places
        if not places.shape[1]:
            return np.zeros(len(vectors))
        found: Floats = (np.array(answers, object)[places] == np.array(said, object)[:, None]).mean(axis=1)
        return found


def conflicts(
    vectors: Vectors, texts: Sequence[str], answers: Sequence[str], *, within: float = SAME_QUESTION
) -> list[tuple[int, int]]:
    """Pairs of rows (i, j), i < j, that ask the same and are answered otherwise, found among each row's nearest.

    Args:
        vectors: [rows, size].
        texts: canonical; other protected tokens make another question.
        answers: the teacher's.
        within: cosine distance.
    """
    near = Neighbours(vectors).nearest(vectors, NEAREST + 1) if len(texts) else None
    if near is None:
        return []
    row, column = np.nonzero(near.cosines >= 1.0 - within)
    pairs = {(min(i, j), max(i, j)) for i, j in zip(row.tolist(), near.places[row, column].tolist(), strict=True)}
    found = sorted((i, j) for i, j in pairs if i != j and answers[i] != answers[j])
    keys = {place: guarded.key if (guarded := guard(texts[place])) is not None else None for i in found for place in i}
    return [(i, j) for i, j in found if keys[i] is not None and keys[i] == keys[j]]


def grouped(vectors: Vectors, count: int, *, seed: int) -> Places:
    """[rows] numbers of groups by meaning: spherical k-means (Dhillon and Modha 2001); some may be empty.

    Args:
        vectors: [rows, size].
        count: of groups, at most the rows.
        seed: of the first centres; the same rows in the same order give the same groups.
    """
    means = faiss.Kmeans(
        vectors.shape[1], count, niter=_ITERATIONS, seed=seed, spherical=True, min_points_per_centroid=1
    )
    unit = units(vectors)
    means.train(unit)
    return np.asarray(means.index.search(unit, 1)[1][:, 0], np.int64)


def units(vectors: Vectors) -> npt.NDArray[np.float32]:
    """The same directions with length 1, in one block of memory; what has no direction stays 0."""
    rows = np.ascontiguousarray(vectors, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, np.finfo(np.float32).tiny), np.float32)
