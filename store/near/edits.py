"""Levenshtein distance of many short pairs at once: bit-parallel (Myers 1999; Hyyro 2003), one pair a lane."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_LENGTH: Final = 64  # one machine word a pair
SYMBOL_BITS: Final = 6
_ALPHABET: Final = b"abcdefghijklmnopqrstuvwxyz0123456789 "
_CODES: Final = bytes(_ALPHABET.find(byte) + 1 for byte in range(256))
_BLOCK: Final = 4096

_Letters = npt.NDArray[np.uint8]
_Words = npt.NDArray[np.uint64]


def six_bits(text: str) -> _Letters:
    """[letters] 1 to 37 for a letter of the Latin alphabet in lower case, a digit or a space; 0 for anything else."""
    return np.frombuffer(text.encode("ascii", "replace").translate(_CODES), np.uint8)


def distances(left: Sequence[str], right: Sequence[str]) -> npt.NDArray[np.int64]:
    """[pairs] the least number of letters to insert, delete or replace; the longer length where it is above MAX_LENGTH.

    Args:
        left: words in lower case; what `six_bits` does not tell apart counts as equal.
        right: as many.
    """
    m, n = (np.fromiter(map(len, side), np.int64, len(side)) for side in (left, right))
    found = np.maximum(m, n)
    first, second = _padded(left, m), _padded(right, n)
    short = np.flatnonzero(found <= MAX_LENGTH)
    by_length = short[np.argsort(-n[short], kind="stable")]
    for start in range(0, len(by_length), _BLOCK):
        lanes = by_length[start : start + _BLOCK]
        found[lanes] = _block(first[lanes], m[lanes], second[lanes], n[lanes])
    return found


def _block(
    left: _Letters, m: npt.NDArray[np.int64], right: _Letters, n: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """`right` is sorted by falling length `n`: the lanes still at work are always the first ones."""
    one = np.uint64(1)
    masks = _masks(left, m)
    last = one << (np.maximum(m, 1) - 1).astype(np.uint64)
    plus, minus = np.full(len(m), ~np.uint64(0)), np.zeros(len(m), np.uint64)
    score = m.copy()
    for column in range(int(n[0])):
        k = int(np.searchsorted(-n, -column, side="left"))  # lanes with a letter here
        equal = masks[np.arange(k), right[:k, column]]
        p, q = plus[:k], minus[:k]
        vertical = equal | q
        horizontal = (((equal & p) + p) ^ p) | equal
        up, down = q | ~(horizontal | p), p & horizontal
        score[:k] += ((up & last[:k]) != 0).astype(np.int64) - ((down & last[:k]) != 0)
        up = (up << one) | one
        plus[:k], minus[:k] = (down << one) | ~(vertical | up), up & vertical
    return np.where(m == 0, n, score)


def _masks(letters: _Letters, lengths: npt.NDArray[np.int64]) -> _Words:
    """[pairs, symbols]: bit i is set where the i-th letter is that symbol."""
    masks = np.zeros((len(letters), 1 << SYMBOL_BITS), np.uint64)
    for place in range(int(lengths.max())):
        lanes = np.flatnonzero(lengths > place)
        masks[lanes, letters[lanes, place]] |= np.uint64(1) << np.uint64(place)
    return masks


def _padded(strings: Sequence[str], lengths: npt.NDArray[np.int64]) -> _Letters:
    """[strings, MAX_LENGTH] codes, zeros behind each string's end; longer strings are cut."""
    stream = np.concatenate([six_bits("".join(strings)), np.zeros(MAX_LENGTH, np.uint8)])
    starts = np.cumsum(lengths) - lengths
    window = np.lib.stride_tricks.sliding_window_view(stream, MAX_LENGTH)[starts]
    return np.where(np.arange(MAX_LENGTH) < lengths[:, None], window, 0).astype(np.uint8)
