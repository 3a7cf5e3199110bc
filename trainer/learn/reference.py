"""The few vectors that say what is known: novelty is the distance to the nearest of them."""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from store.student.classify import MAX_REFERENCES
from store.student.encoder import FloatArray

_REFERENCE_POOL: Final = 16_384


def reference_vectors(pooled: FloatArray, *, seed: int, size: int = MAX_REFERENCES) -> Tensor:
    """At most `size` rows of [n, hidden], float16, such that no row is far from all of them (Gonzalez 1985).

    Greedy k-centre rather than a random draw: a draw would miss rare topics, whose questions would then look novel for
    ever. The novelty threshold is calibrated afterwards, so the outliers that k-centre keeps do no harm.
    """
    rows = torch.from_numpy(pooled)
    if len(rows) > _REFERENCE_POOL:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), _REFERENCE_POOL, replace=False))
        rows = rows[torch.from_numpy(chosen)]
    if len(rows) <= size:
        return rows.half().contiguous()
    centre = int((rows @ rows.mean(dim=0)).argmax())
    picked, nearest = [centre], rows @ rows[centre]
    while len(picked) < size:
        farthest = int(nearest.argmin())
        picked.append(farthest)
        nearest = torch.maximum(nearest, rows @ rows[farthest])
    return rows[torch.tensor(picked)].half().contiguous()
