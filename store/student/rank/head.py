"""The ranking student's head: a slope for the base's similarity, a correction, and a bias for what came back.

score(q, d) = slope s(q, d) + w . f(q, d) + bias(d); s is the cosine and f = [q * d, |q - d|] on a bi-encoder; on a
cross-encoder s is its output and there is no f. What the teacher's own score is around it, within a
list, is taken to be normal with one standard deviation, sigma.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from store.errors import CorruptVersionError
from store.student.encoder import FloatArray
from store.student.rank.bases import Matched, rows_dot
from store.tasks.rank import Tolerance

MAX_ITEMS: Final = 65_536  # documents with a bias of their own
_DRAWS: Final = 100
_KEY_BYTES: Final = 16
_SLACK: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankHead:
    """A version's head, float32 on the CPU."""

    slope: float  # of the similarity
    sigma: float  # sd of the teacher's score around ours, both less their list's mean
    weight: FloatArray  # [features] of the base
    items: Mapping[str, float]  # bias by document key
    new_sigma: float = 0.0  # sd around the score of a document that has no bias where others do; at least `sigma`

    def scores(self, matched: Matched) -> FloatArray:
        """Scores of one list, [n]: only their differences mean anything."""
        correction = rows_dot(matched.features, self.weight)
        result: FloatArray = np.float32(self.slope) * matched.similarity + correction + self.biases(matched.keys)
        return result

    def biases(self, keys: Sequence[str]) -> FloatArray:
        """[n] the documents' own biases; 0 for one that has none."""
        return np.array([self.items.get(key, 0.0) for key in keys], np.float32)

    def sigmas(self, keys: Sequence[str]) -> FloatArray:
        """[n] how far the teacher's score of each document lies from ours: what is new may be liked or not."""
        new = max(self.sigma, self.new_sigma) if self.items else self.sigma
        return np.array([self.sigma if key in self.items else new for key in keys], np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as `head.safetensors` holds them."""
        keys = np.array([list(bytes.fromhex(key)) for key in self.items], np.uint8).reshape(-1, _KEY_BYTES)
        return {
            "item_biases": torch.tensor(list(self.items.values()), dtype=torch.float32),
            "item_keys": torch.from_numpy(keys),
            "scale": torch.tensor([self.slope, self.sigma, self.new_sigma], dtype=torch.float64),
            "weight": torch.from_numpy(self.weight),
        }

    @staticmethod
    def of(tensors: Mapping[str, Tensor], *, features: int) -> "RankHead":
        """The head in a version's tensors.

        Args:
            tensors: by name.
            features: of the base.

        Raises:
            CorruptVersionError: a tensor is missing, or does not fit the others or the base.
        """
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        items = len(tensors.get("item_biases", ()))
        wanted = {
            "item_biases": (items,),
            "item_keys": (items, _KEY_BYTES),
            "scale": (3,),
            "weight": (features,),
        }
        if found != wanted or items > MAX_ITEMS or tensors["item_keys"].dtype != torch.uint8:
            message = f"a ranking head's tensors {found} do not fit {wanted}"
            raise CorruptVersionError(message)
        slope, sigma, new_sigma = tensors["scale"].double().tolist()
        if min(sigma, new_sigma) < 0.0:
            message = f"a ranking head's sigma is {min(sigma, new_sigma)}, below 0"
            raise CorruptVersionError(message)
        keys = [bytes(row).hex() for row in tensors["item_keys"].tolist()]
        return RankHead(
            slope=slope,
            sigma=sigma,
            weight=tensors["weight"].float().numpy(),
            items=dict(zip(keys, tensors["item_biases"].float().tolist(), strict=True)),
            new_sigma=new_sigma,
        )


def confidence(
    scores: npt.NDArray[np.floating], sigma: float | npt.NDArray[np.floating], tolerance: Tolerance
) -> float:
    """The share of 100 draws of the teacher's scores under which our order is the same ranking by the lane's tolerance.

    The draws are the same in every call and belong to places in our own order, so asking with the documents in another
    order changes nothing.

    Args:
        scores: [n], ours.
        sigma: sd of a draw around our score, one for all or [n].
        tolerance: what is called the same.
    """
    spread = np.broadcast_to(np.asarray(sigma, np.float64), np.shape(scores))
    order = np.lexsort((spread, -np.asarray(scores, np.float64)))
    falling, spread = np.asarray(scores, np.float64)[order], spread[order]
    k = min(tolerance.k, len(falling))
    drawn = falling + spread * _normal_draws(len(falling))
    best = -np.sort(-drawn, axis=1)[:, :k] if k > 1 else drawn.max(axis=1, keepdims=True)
    found = -np.sort(-drawn[:, :k], axis=1)
    return float(((best - found).max(axis=1, initial=0.0) <= tolerance.epsilon + _SLACK).mean())


@lru_cache(maxsize=64)
def _normal_draws(documents: int) -> npt.NDArray[np.float64]:
    """[draws, documents]; half of them mirror the other half, so that their mean is exactly the score."""
    half = np.random.default_rng(documents).standard_normal((_DRAWS // 2, documents))
    return np.concatenate([half, -half])
