"""The training prompts nearest to a question, and whether their answers are what the student says."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from store.event import canonical_text
from store.tasks.chat import ChatSaid, structure

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

NEAREST: Final = 10
_HEX_DIGITS: Final = 16
_CALLS: Final = "tool_calls"
_BLOCK: Final = 512


def answer_key(said: ChatSaid) -> str:
    """A short name of a teacher's answer: equal for equal JSON, and for texts of the same words."""
    return _CALLS if said.tool_calls else text_key(said.text)


def opening_key(ids: Sequence[int]) -> str:
    """A short name of the tokens that an answer begins with."""
    return hashlib.sha256(np.array(ids, np.uint32).tobytes()).hexdigest()[:_HEX_DIGITS]


def text_key(text: str) -> str:
    """As `answer_key`, of an answer that is a text."""
    form = structure(text) or canonical_text(text).encode()
    return hashlib.sha256(form).hexdigest()[:_HEX_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neighbours:
    """Training prompts with the keys of their answers."""

    vectors: Vectors  # [n, hidden] of length 1, of the small encoder
    answers: Sequence[str]  # n keys
    openings: Sequence[
        str
    ] = ()  # n keys of what the answers begin with; none in a version that is sure at the end alone

    def nearest(self, vectors: Vectors) -> tuple[npt.NDArray[np.int64], Vectors]:
        """Places [m, 10] of the nearest prompts, nearest first, and the cosines [m, 10]; of fewer prompts, of all."""
        most = min(NEAREST, len(self.answers))
        places = np.empty((len(vectors), most), np.int64)
        cosines = np.empty((len(vectors), most), np.float32)
        for start in range(0, len(vectors), _BLOCK):
            found = vectors[start : start + _BLOCK] @ self.vectors.T
            order = np.argsort(-found, axis=1, kind="stable")[:, :most]
            places[start : start + _BLOCK] = order
            cosines[start : start + _BLOCK] = np.take_along_axis(found, order, axis=1)
        return places, cosines

    def equal(self, vectors: Vectors, texts: Sequence[str]) -> Floats:
        """[m] share of the nearest prompts whose answer is the text; 0 where there are no prompts."""
        return self._shares(vectors, self.answers, np.array([text_key(text) for text in texts])[:, None])

    def opening(self, vectors: Vectors, keys: Sequence[str]) -> Floats:
        """[m] share of the nearest prompts whose answer begins with what has the key."""
        return self._shares(vectors, self.openings, np.array(keys)[:, None])

    def unanimous(self, vectors: Vectors) -> Floats:
        """[m] share of the nearest prompts that have the commonest answer among them."""
        if not len(self.answers):
            return np.zeros(len(vectors))
        found = np.array(self.answers)[self.nearest(vectors)[0]]
        shares: Floats = (found[:, :, None] == found[:, None, :]).mean(axis=2).max(axis=1)
        return shares

    def novelty(self, vectors: Vectors) -> Floats:
        """[m] distances to the nearest prompt, 1 - cosine; 2 where there are none."""
        if not len(self.answers):
            return np.full(len(vectors), 2.0)
        return np.maximum(0.0, 1.0 - self.nearest(vectors)[1][:, 0].astype(np.float64))

    def _shares(self, vectors: Vectors, keys: Sequence[str], said: npt.NDArray[np.str_]) -> Floats:
        """[m] share of the nearest prompts whose key is the one said, [m, 1]."""
        if not len(keys):
            return np.zeros(len(vectors))
        shares: Floats = (np.array(keys)[self.nearest(vectors)[0]] == said).mean(axis=1)
        return shares
