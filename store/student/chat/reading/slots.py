"""Where a batch keeps its keys and values, row by row; rows come and go, and nothing else moves."""

from typing import Any, Final

import torch
from torch import Tensor

from store.student.chat.stack import KeyValues

_SLOT_STEP: Final = 64  # tokens by which a batch's room grows


class Slots:
    """The batch's own keys and values: token t of a row lies in slot t. Satisfies `store.student.chat.stack.Cache`."""

    def __init__(self) -> None:
        self.rows = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}  # [room for rows, heads, room for tokens, size] each
        self._used = 0  # slots that the longest row has used
        self._at: Tensor = torch.empty(0)

    def reserve(self, rows: int, tokens: int, like: KeyValues | None = None) -> None:
        """Have room for so many rows of so many tokens, of keys and values like these."""
        if like is not None and not self._layers:
            self._layers = {layer: (keys[:0], values[:0]) for layer, (keys, values) in like.layers.items()}
        for layer, pair in self._layers.items():
            room_rows, heads, room_tokens, size = pair[0].shape
            if room_rows >= rows and room_tokens >= tokens:
                continue
            shape = (max(rows, room_rows), heads, max(-(-tokens // _SLOT_STEP) * _SLOT_STEP, room_tokens), size)
            fresh = (pair[0].new_zeros(shape), pair[1].new_zeros(shape))
            for new, old in zip(fresh, pair, strict=True):
                new[: self.rows, :, : self._used] = old[: self.rows, :, : self._used]
            self._layers[layer] = fresh

    def append(self, prefix: KeyValues | None, read: KeyValues, longest: int) -> None:
        """Rows behind the others: their prefix, and what was read after it."""
        first, count = self.rows, read.positions.shape[0]
        begin = 0 if prefix is None else prefix.positions.shape[1]
        for layer, pair in read.layers.items():
            for which, room in enumerate(self._layers[layer]):
                if prefix is not None:
                    room[first : first + count, :, :begin] = prefix.layers[layer][which]
                room[first : first + count, :, begin : begin + pair[which].shape[2]] = pair[which]
        self.rows += count
        self._used = max(self._used, longest)

    def remove(self, row: int) -> None:
        """Let the last row take a row's place."""
        self.rows -= 1
        if row != self.rows:
            for pair in self._layers.values():
                for room in pair:
                    room[row] = room[self.rows].clone()

    def places(self, positions: Tensor) -> Tensor:
        """See `Cache`."""
        self._at = positions
        self._used = int(positions.max()) + 1
        return torch.arange(self._used, device=positions.device).expand(positions.shape[0], -1)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **_: Any) -> tuple[Tensor, Tensor]:
        """See `Cache`."""
        room_keys, room_values = self._layers[layer_idx]
        rows = torch.arange(keys.shape[0], device=keys.device)[:, None]
        room_keys[rows, :, self._at] = keys.transpose(1, 2)
        room_values[rows, :, self._at] = values.transpose(1, 2)
        return room_keys[: self.rows, :, : self._used], room_values[: self.rows, :, : self._used]
