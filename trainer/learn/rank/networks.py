"""What is trained of a base: its top layers, with fp32 masters of their weights, over what stays as it is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from store.student.encoder import Encoder, mean_pool
from store.student.rank.cross import CrossEncoder

Asked = tuple[str, Sequence[str]]  # query, documents

_STATES_BATCH: Final = 32


def network_on(
    encoder: Encoder, texts: Sequence[str], *, top_layers: int, start: Mapping[str, Tensor] | None
) -> "Network":
    """A trainable copy of a base's top layers.

    Args:
        encoder: the base; it is not changed.
        texts: all that will be asked about.
        top_layers: how many are trained.
        start: parameters to go on from; None: the base's.
    """
    first = max(0, len(encoder.layers()) - top_layers)
    if isinstance(encoder, CrossEncoder):
        return CrossNetwork(encoder, first, start or {})
    return BiNetwork(encoder, texts, first, start or {})


class Network(ABC):
    """Working weights that compute, and masters that learn."""

    def __init__(self, encoder: Encoder, begun: Mapping[str, Tensor]) -> None:
        """Copy the base with these parameters, float32 on the CPU, trainable."""
        self._encoder = encoder
        self.model: Any = encoder.with_changed(begun)
        if encoder.device.type == "cpu":
            self.model.set_attn_implementation("eager")
        self.model.eval()
        self._names = list(begun)
        self._begun = begun

    def begin(self) -> None:
        """Tie the masters to the working weights."""
        named = dict(self.model.named_parameters())
        self._names = [name for name in self._names if name in named]
        self._working = [named[name].requires_grad_(requires_grad=True) for name in self._names]
        self.masters = [self._begun[name].to(self._encoder.device).clone().requires_grad_() for name in self._names]

    @abstractmethod
    def similarities(self, asked: Sequence[Asked]) -> list[Tensor]:
        """[n] for each list, float32 on the CPU: of documents with their query."""

    def gather(self) -> None:
        """Hand the gradients to the masters."""
        for master, working in zip(self.masters, self._working, strict=True):
            master.grad = working.grad.float() if working.grad is not None else torch.zeros_like(master)
            working.grad = None

    def spread(self) -> None:
        """Compute on with what the masters have become."""
        with torch.no_grad():
            for master, working in zip(self.masters, self._working, strict=True):
                working.copy_(master)

    def changed(self) -> dict[str, Tensor]:
        """The trained parameters, float32 on the CPU."""
        return {name: m.detach().float().cpu().clone() for name, m in zip(self._names, self.masters, strict=True)}


class CrossNetwork(Network):
    """A cross-encoder's top layers, its pooler and its classifier. Nothing is kept of the layers below.

    States of pairs would not fit into memory: there are as many as lists times documents.
    """

    def __init__(self, encoder: CrossEncoder, first: int, start: Mapping[str, Tensor]) -> None:
        """Train from this layer on."""
        body = {id(p) for p in encoder.model.parameters()}
        upper = [*encoder.layers()[first:], *filter(None, [getattr(encoder.model, "pooler", None)])]
        trained = {id(p) for module in upper for p in module.parameters()}
        own = {n: p for n, p in encoder.whole.named_parameters() if id(p) in trained or id(p) not in body}
        begun = {name: start[name] if name in start else p.detach().float().cpu() for name, p in own.items()}
        super().__init__(encoder, begun)
        self._cross = encoder
        self.begin()

    def similarities(self, asked: Sequence[Asked]) -> list[Tensor]:
        """See `Network`."""
        rows = self._cross.tokenise_pairs([(query, text) for query, documents in asked for text in documents])
        found = self._cross.logits(self.model, rows).float().cpu()
        return list(torch.split(found, [len(documents) for _, documents in asked]))


class BiNetwork(Network):
    """A bi-encoder's top layers over kept states of what is below them."""

    def __init__(self, encoder: Encoder, texts: Sequence[str], first: int, start: Mapping[str, Tensor]) -> None:
        """Compute the states of all texts."""
        upper = {id(p) for layer in encoder.layers()[first:] for p in layer.parameters()}
        own = {name: p for name, p in encoder.model.named_parameters() if id(p) in upper}
        begun = {name: start[name] if name in start else p.detach().float().cpu() for name, p in own.items()}
        super().__init__(encoder, begun)
        self._states = _States(encoder, texts, first)
        layers = encoder.layers(self.model)
        self._given = _Given(in_tuples=self._states.in_tuples)
        for place in range(first):
            layers[place] = self._given if place == first - 1 else _Given(in_tuples=self._states.in_tuples)
        self._lowest = first == 0
        self.begin()

    def similarities(self, asked: Sequence[Asked]) -> list[Tensor]:
        """See `Network`."""
        vectors = self._vectors([text for query, documents in asked for text in (query, *documents)])
        parts = torch.split(vectors, [1 + len(documents) for _, documents in asked])
        return [part[1:] @ part[0] for part in parts]

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        """[n, hidden] of length 1, float32, on the CPU."""
        names = list(dict.fromkeys(texts))
        ids, mask = self._encoder.pad([self._states.rows[text] for text in names])
        if not self._lowest:
            self._given.states = nn.utils.rnn.pad_sequence([self._states.of[text] for text in names], batch_first=True)
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        place = {text: number for number, text in enumerate(names)}
        return mean_pool(hidden, mask).cpu()[[place[text] for text in texts]]


class _Stop(Exception):  # noqa: N818 - no error: the layers above are not computed
    """The states are there."""


class _States:
    """What enters the first trained layer, for each text: computed once, kept without padding."""

    def __init__(self, encoder: Encoder, texts: Sequence[str], first: int) -> None:
        self.rows = dict(zip(texts, encoder.tokenise(texts), strict=True))
        self.of: dict[str, Tensor] = {}
        order = sorted(texts, key=lambda text: len(self.rows[text]))
        seen: list[Tensor] = []

        def catch(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            seen.append(arguments[0])
            raise _Stop

        def note(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
            self.in_tuples = isinstance(output, tuple)

        self.in_tuples = False  # how this architecture's layers hand on their states
        hooks = [encoder.layers()[first].register_forward_pre_hook(catch)]
        hooks += [layer.register_forward_hook(note) for layer in encoder.layers()[: min(first, 1)]]
        try:
            for start in range(0, len(order), _STATES_BATCH):
                batch = order[start : start + _STATES_BATCH]
                ids, mask = encoder.pad([self.rows[text] for text in batch])
                try:
                    with torch.inference_mode():
                        encoder.model(input_ids=ids, attention_mask=mask)
                except _Stop:
                    pass
                for place, text in enumerate(batch):
                    self.of[text] = seen[-1][place, : len(self.rows[text])].clone()
        finally:
            for hook in hooks:
                hook.remove()


class _Given(nn.Module):
    """Stands in the place of a lower layer: says what was computed before, or passes on what it is given."""

    def __init__(self, *, in_tuples: bool) -> None:
        super().__init__()
        self.states: Tensor | None = None
        self._in_tuples = in_tuples

    def forward(self, states: Tensor, *_: Any, **__: Any) -> Tensor | tuple[Tensor]:
        """The kept states, whatever comes in."""
        found = states if self.states is None else self.states
        return (found,) if self._in_tuples else found
