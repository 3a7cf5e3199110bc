"""Near-duplicates among the kept items, linked at freeze: banded MinHash proposes, guards decide.

Similarity alone merges "refund invoice 17" with "refund invoice 71" (every method with a recall of .95 does, for 90 to
100 % of such pairs), so two texts are linked only where their protected tokens (numbers, negations, currencies,
directions, times) are the same, in the same order, and the teacher's answers agree. All of it is a function of the set
of (text, answer) pairs: the order of the rows cannot change a link.

MinHash: Broder 1997; bands and rows: Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from store.near.edits import SYMBOL_BITS, distances, six_bits
from store.near.guard import FILLERS, Guarded, guard

BANDS: Final = 32
ROWS: Final = 3
HASHES: Final = BANDS * ROWS
MIN_SIMILARITY: Final = 0.4
"""Least Jaccard similarity of character 3-grams, as the signatures estimate it (standard error .05)."""
MAX_EDIT_RATIO: Final = 0.2
"""Most edits, as a share of the shorter text's letters, between the words that only one of the two has."""
SIGNATURE_BYTES: Final = 4 * HASHES
MAX_ROWS: Final = 1 << 24

_GRAM: Final = 3
_NEIGHBOURS: Final = 2  # each row of a bucket is compared with so many after it, in content order: buckets stay linear
_BLOCK: Final = 2048
_SEED: Final = 20_031

_Ints = npt.NDArray[np.int64]
_Signatures = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Links:
    """Which rows are one question, and which look alike but were answered differently."""

    clusters: _Ints  # [rows] cluster number, counted from 0 in the order of first appearance
    contrasts: tuple[tuple[int, int], ...]  # pairs (i, j), i < j: near in words, different in answer
    exact_only: int  # rows in a script or language without a guard: linked to nothing but themselves


def link(texts: Sequence[str], answers: Sequence[str]) -> Links:
    """Link near-duplicates: similar in letters, the same protected tokens in the same order, the same answer.

    Contrasts are found among neighbours in a bucket, so of many similar pairs with different answers some are named.

    Args:
        texts: canonical texts, one a row.
        answers: the teacher's answer to each.

    Raises:
        ValueError: texts and answers differ in length, or there are more than 16 million.
    """
    if len(texts) != len(answers) or len(texts) > MAX_ROWS:
        message = f"{len(texts)} texts and {len(answers)} answers; equally many, and at most {MAX_ROWS}, are needed"
        raise ValueError(message)
    guards = [guard(text) for text in texts]
    number = {answer: place for place, answer in enumerate(sorted(set(answers)))}
    said = [number[answer] for answer in answers]
    tags = [
        f"{own:08d}{text if g is None else g.key}" for own, text, g in zip(said, texts, guards, strict=True)
    ]  # equal tags may be linked; one string sorts and compares faster than a tuple
    sorting = [f"{tag}\0{text}" for tag, text in zip(tags, texts, strict=True)]
    free = sorted((i for i, g in enumerate(guards) if g is not None), key=sorting.__getitem__)
    order = np.asarray(free, np.int64)
    near, contrast = _pairs(
        [g for i in free if (g := guards[i]) is not None], _runs([tags[i] for i in free]), np.asarray(said)[order]
    )
    whole = [f"{own:08d}{text}" for own, text in zip(said, texts, strict=True)]
    joined = np.concatenate([order[near], _exact_pairs(whole)])
    n = len(texts)
    graph = coo_array((np.ones(len(joined), np.int8), (joined[:, 0], joined[:, 1])), shape=(n, n))
    component = connected_components(graph, directed=False)[1] if n else np.empty(0, np.int64)
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return Links(
        clusters=np.argsort(np.argsort(first))[inverse],
        contrasts=tuple((int(i), int(j)) for i, j in np.unique(np.sort(order[contrast], axis=1), axis=0)),
        exact_only=n - len(free),
    )


def _runs(values: Sequence[str]) -> _Ints:
    """The number of the run each of the sorted values is in, from 0."""
    starts = [before != after for before, after in pairwise(values)]
    return np.cumsum(np.asarray([False, *starts][: len(values)], np.int64))


def _exact_pairs(whole: Sequence[str]) -> _Ints:
    """Each repeat of a (text, answer) with its first."""
    first: dict[str, int] = {}
    repeats = [(seen, i) for i, value in enumerate(whole) if (seen := first.setdefault(value, i)) != i]
    return np.asarray(repeats, np.int64).reshape(-1, 2)


def _pairs(known: Sequence[Guarded], groups: _Ints, said: _Ints) -> tuple[_Ints, _Ints]:
    """Pairs of places in content order: (linked, contrasting)."""
    none = np.empty((0, 2), np.int64)
    if len(known) < 2:  # noqa: PLR2004 - a pair takes two
        return none, none
    signatures = _signatures([" ".join(g.words) for g in known])
    within: list[_Ints] = []
    across: list[_Ints] = []
    for band in range(BANDS):
        ranked = _bucketed(signatures[:, band * ROWS : (band + 1) * ROWS])
        bucket, place = ranked >> np.uint64(24), (ranked & np.uint64(MAX_ROWS - 1)).astype(np.int64)
        for step in range(1, min(_NEIGHBOURS, len(place) - 1) + 1):
            a, b = place[:-step], place[step:]
            meet = bucket[:-step] == bucket[step:]
            same = meet & (groups[a] == groups[b])
            within.append(a[same] * MAX_ROWS + b[same])
            differ = meet & (said[a] != said[b])
            across.append(a[differ] * MAX_ROWS + b[differ])
    alike = _similar(signatures, within)
    return alike[_few_edits(known, alike)], _similar(signatures, across)


def _bucketed(rows: _Signatures) -> npt.NDArray[np.uint64]:
    """[n] sorted: 40 bits of a band's hash, then 24 bits of place; one sort puts buckets and places in order."""
    mixed = np.zeros(len(rows), np.uint64)
    for column in range(ROWS):
        mixed = (mixed ^ rows[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.sort((mixed >> np.uint64(24) << np.uint64(24)) | np.arange(len(rows), dtype=np.uint64))


def _similar(signatures: _Signatures, proposed: Sequence[_Ints]) -> _Ints:
    """The proposed pairs whose signatures agree in enough of their places."""
    codes = np.sort(np.concatenate(proposed))
    codes = codes[np.diff(codes, prepend=-1) > 0]  # ten times faster here than np.unique
    pairs = np.stack([codes >> 24, codes & (MAX_ROWS - 1)], axis=1)
    kept = [
        block[(signatures[block[:, 0]] == signatures[block[:, 1]]).mean(axis=1) >= MIN_SIMILARITY]
        for block in (pairs[i : i + _BLOCK] for i in range(0, len(pairs), _BLOCK))
    ]
    return np.concatenate(kept) if kept else pairs


def _few_edits(known: Sequence[Guarded], pairs: _Ints) -> npt.NDArray[np.bool_]:
    """[pairs] whether the words that only one of the two has are, as letters, a few edits apart.

    Words that both have are left out first, and courtesies and articles, so that neither order nor politeness costs
    anything, and a slip that joins or splits words costs one edit.
    """
    places = set(pairs.ravel().tolist())
    words = {place: [word for word in known[place].words if word not in FILLERS] for place in places}
    sets = {place: frozenset(listed) for place, listed in words.items()}
    sizes = np.fromiter((sum(map(len, g.words)) for g in known), np.int64, len(known))
    spare: list[str] = []
    other: list[str] = []
    for a, b in zip(pairs[:, 0].tolist(), pairs[:, 1].tolist(), strict=True):
        first, second = sets[a], sets[b]
        spare.append("".join([word for word in words[a] if word not in second]))
        other.append("".join([word for word in words[b] if word not in first]))
    allowed = MAX_EDIT_RATIO * np.minimum(sizes[pairs[:, 0]], sizes[pairs[:, 1]])
    return distances(spare, other) <= allowed


def _signatures(letters: Sequence[str]) -> _Signatures:
    """[n, HASHES]: the least hash of each text's 3-grams under each of the hash functions.

    Each gram that occurs is hashed once (there are few); a text's signature is then the minimum of table rows. Texts
    are taken in blocks by length, so that position p is one gather for all texts that have one.
    """
    padded = [f" {text} " for text in letters]
    stream = six_bits("\n".join([*padded, "  "])).astype(np.uint32)
    grams = (stream[:-2] << np.uint32(2 * SYMBOL_BITS)) | (stream[1:-1] << np.uint32(SYMBOL_BITS)) | stream[2:]
    present = np.flatnonzero(np.bincount(grams, minlength=1 << (_GRAM * SYMBOL_BITS)))
    table = _hashed(present)
    row_of = np.zeros(1 << (_GRAM * SYMBOL_BITS), np.int64)
    row_of[present] = np.arange(len(present))
    index = row_of[grams]
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    counts = np.maximum(lengths - (_GRAM - 1), 1)
    by_length = np.argsort(-counts, kind="stable")
    found = np.empty((len(letters), HASHES), np.uint32)
    for begin in range(0, len(letters), _BLOCK):
        block = by_length[begin : begin + _BLOCK]
        least = table[index[starts[block]]]
        for position in range(1, int(counts[block[0]])):
            alive = int(np.searchsorted(-counts[block], -position, side="left"))
            np.minimum(least[:alive], table[index[starts[block[:alive]] + position]], out=least[:alive])
        found[block] = least
    return found


def _hashed(grams: _Ints) -> _Signatures:
    """[grams, HASHES] multiply-shift hashes (Dietzfelbinger et al. 1997), fixed for all time."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    factors = rng.integers(0, 1 << 63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = rng.integers(0, 1 << 63, HASHES, dtype=np.uint64)
    return ((grams.astype(np.uint64)[:, None] * factors + offsets) >> np.uint64(32)).astype(np.uint32)
