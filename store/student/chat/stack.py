"""A decoder's layers as a trainer and a generator want them: run from one layer to another, over a past of one's own.

The layers are the model library's. What each may see is decided here, by positions: a key is seen by the queries at its
own position and later ones, within the layer's window; a key without a position is seen by none. So rows of different
lengths, a prefix that rows share, and rows that came at different times go through the same code.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from store.errors import SwapRefusedError
from store.student.chat.folder import FAMILIES

NOWHERE: Final = -1  # the position of padding
_SLIDING: Final = "sliding_attention"
_FULL: Final = "full_attention"


class Cache(Protocol):
    """Keys and values of earlier tokens, to which the layers add those of the tokens that they read."""

    def places(self, positions: Tensor) -> Tensor:
        """Positions [rows, keys] of all keys, once the tokens at `positions` [rows, tokens] are among them."""

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **_: Any) -> tuple[Tensor, Tensor]:
        """Add a layer's keys and values [rows, heads, tokens, size]; all of them, [rows, heads, keys, size] each.

        The model library calls it, with what else it may pass to its own caches.
        """


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values of tokens that were read, layer by layer; one row may stand for all rows of a batch."""

    positions: Tensor  # [rows, tokens]
    layers: dict[int, tuple[Tensor, Tensor]]  # by layer: [rows, heads, tokens, size] each

    def row(self, index: int) -> "KeyValues":
        """One row alone."""
        kept = {
            layer: (keys[index : index + 1], values[index : index + 1]) for layer, (keys, values) in self.layers.items()
        }
        return KeyValues(self.positions[index : index + 1], kept)


class Appending:
    """Puts what is read behind a past, and changes nothing in place: gradients flow through both."""

    def __init__(self, past: KeyValues | None = None) -> None:
        self.read: dict[int, tuple[Tensor, Tensor]] = {}  # of the tokens that were read through this
        self._past = past

    def places(self, positions: Tensor) -> Tensor:
        """See `Cache`."""
        if self._past is None:
            return positions
        return torch.cat([self._past.positions.expand(positions.shape[0], -1), positions], dim=1)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **_: Any) -> tuple[Tensor, Tensor]:
        """See `Cache`."""
        self.read[layer_idx] = (keys, values)
        if self._past is None:
            return keys, values
        before = [one.expand(keys.shape[0], -1, -1, -1) for one in self._past.layers[layer_idx]]
        return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)


class Stack:
    """The layers of one causal model, lowest first, with what is below and above them."""

    def __init__(self, model: Any) -> None:
        """See through a model of one of `FAMILIES`.

        Raises:
            SwapRefusedError: this release does not know how its layers are run.
        """
        config = model.config
        if config.model_type not in FAMILIES or getattr(config, "use_bidirectional_attention", None):
            message = f"a decoder of type {config.model_type}: this release runs {', '.join(FAMILIES)}"
            raise SwapRefusedError(message)
        self.model = model
        self.modules: nn.ModuleList = model.model.layers
        self.layers: int = config.num_hidden_layers
        self.hidden_size: int = config.hidden_size
        self.vocabulary: int = config.vocab_size
        self._window: int | None = getattr(config, "sliding_window", None)
        self._kinds = _kinds(config)
        self._rope = model.model.rotary_emb
        self._rope_by_kind = "layer_type" in inspect.signature(type(self._rope).forward).parameters
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)  # c of c tanh(z / c)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.device

    @property
    def head(self) -> Tensor:
        """The weight of the projection to the vocabulary, [vocabulary, hidden]; `logits` applies it."""
        weight: Tensor = self.model.lm_head.weight
        return weight

    def embed(self, ids: Tensor) -> Tensor:
        """States below the lowest layer: [rows, tokens, hidden] of token ids [rows, tokens]."""
        states: Tensor = self.model.model.embed_tokens(ids)
        return states

    def run(
        self,
        hidden: Tensor,
        positions: Tensor,
        *,
        start: int = 0,
        stop: int | None = None,
        past: KeyValues | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """States above layer `stop` - 1, of the states below layer `start`, and the tokens' keys and values.

        Args:
            hidden: [rows, tokens, hidden].
            positions: [rows, tokens], from 0; padding is at `NOWHERE`, and its states mean nothing.
            start: the first layer.
            stop: the layer after the last one; None: all that are left.
            past: of earlier tokens, in these layers; one row of it stands for all.
        """
        cache = Appending(past)
        states = self.through(hidden, positions, cache, start=start, stop=stop)
        return states, KeyValues(positions, cache.read)

    def through(
        self, hidden: Tensor, positions: Tensor, cache: Cache, *, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """As `run`, with a cache of the caller's own."""
        where = range(start, self.layers if stop is None else stop)
        kinds = {self._kinds[layer] for layer in where}
        keys = cache.places(positions)
        masks = {kind: self._mask(positions, keys, kind, hidden.dtype) for kind in kinds}
        turned = positions.clamp(min=0)
        ropes = {kind: self._turn(hidden, turned, kind) for kind in kinds}
        for layer in where:
            kind = self._kinds[layer]
            hidden = self.modules[layer](
                hidden,
                attention_mask=masks[kind],
                position_embeddings=ropes[kind],
                position_ids=turned,
                cache=cache,
            )
        return hidden

    def norm(self, hidden: Tensor) -> Tensor:
        """What the head reads, of the states above the last layer: [..., hidden]."""
        states: Tensor = self.model.model.norm(hidden)
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token, float32: [..., vocabulary] of the states above the last layer [..., hidden]."""
        scores: Tensor = self.model.lm_head(self.norm(hidden)).float()
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap

    def _turn(self, hidden: Tensor, positions: Tensor, kind: str) -> Any:
        return self._rope(hidden, positions, kind) if self._rope_by_kind else self._rope(hidden, positions)

    def _mask(self, queries: Tensor, keys: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
        """What each query sees: [rows, 1, queries, keys]; padding sees everything, so that no softmax is of nothing."""
        asked, there = queries[:, :, None], keys[:, None, :]
        seen = (there >= 0) & (there <= asked)
        if kind == _SLIDING and self._window is not None:
            seen &= asked - there < self._window
        seen = (seen | (asked < 0))[:, None]
        if self.model.config._attn_implementation != "eager":  # noqa: SLF001 - where the library keeps it
            return seen
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def _kinds(config: Any) -> list[str]:
    """Each layer's kind of attention."""
    if (named := getattr(config, "layer_types", None)) is not None:
        return list(named)
    slides = config.model_type == "mistral" and getattr(config, "sliding_window", None) is not None
    return [_SLIDING if slides else _FULL] * config.num_hidden_layers
