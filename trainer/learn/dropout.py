"""Dropout for a CPU, where torch's own takes a sixth of a training step: it draws element by element."""

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

_LEVELS: Final = 256
_BYTES: Final = 8  # of one draw
_ONE: Final = np.int16(0x3F80)  # 1 in bf16


class ByteDropout(nn.Module):
    """Dropout (Srivastava et al. 2014) decided by one random byte an element: the probability is rounded to a 256th."""

    def __init__(self, probability: float, chance: np.random.BitGenerator) -> None:
        """Drop so large a share of the elements, in [0, 1); draw from `chance`, which gives 64 bits at a time."""
        super().__init__()
        self._dropped = round(probability * _LEVELS)
        self._chance = chance

    def forward(self, states: Tensor) -> Tensor:
        """Zeros in random places while training, and the rest scaled up so that the mean stays."""
        if not self.training or not self._dropped:
            return states
        draws = self._chance.random_raw(-(-states.numel() // _BYTES)).view(np.uint8)[: states.numel()]
        kept = (draws >= self._dropped).reshape(states.shape)
        if states.dtype == torch.bfloat16:  # numpy has none
            mask = torch.from_numpy(kept.astype(np.int16) * _ONE).view(torch.bfloat16)
        else:
            mask = torch.from_numpy(kept.astype(np.float32))
        return states * mask * (_LEVELS / (_LEVELS - self._dropped))
