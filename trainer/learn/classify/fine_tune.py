"""Fit the slow member: the encoder fine-tuned above its lowest layers, from a linear probe (Kumar et al. 2022).

The embeddings hold half of the parameters and the lowest layer gains nothing: both stay the base's. Weights are
computed with in the encoder's precision; bf16 weights have fp32 masters, which the optimiser moves.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from store.student.encoder import Encoder, FloatArray, TokenIds, mean_pool
from store.student.tuned import Tuned
from trainer.learn.classify.probe import Probe, probe
from trainer.learn.dropout import ByteDropout

_BETAS: Final = (0.9, 0.98)
_CLIP: Final = 1.0
_WARM_UP_RATIO: Final = 0.1
_FINAL_RATIO: Final = 0.02
_ATTENTION_PROJECTIONS: Final = {"query", "q", "q_lin", "q_proj", "Wqkv"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneSettings:
    """How the encoder is fine-tuned; the defaults are one set for every stream that was tried."""

    epochs: int = 6  # from the base
    warm_epochs: int = 2  # from the last fine-tuned weights
    learning_rate: float = 3e-4  # of the top layer, from the base; half of it when warm
    head_learning_rate: float = 5e-3  # likewise
    layer_decay: float = 0.9  # each layer below learns this much slower
    weight_decay: float = 0.01
    dropout: float = 0.1
    batch_rows: int = 32
    frozen_layers: int = 1  # and the embeddings


def fine_tune(
    encoder: Encoder,
    texts: list[str],
    targets: FloatArray,
    *,
    weights: FloatArray,
    start: Probe | Tuned,
    settings: FineTuneSettings,
    seed: int,
    progress: Callable[[int, int], None] = lambda _done, _steps: None,
) -> Tuned:
    """Train on all rows and return the member.

    Args:
        encoder: the base; it is not changed.
        texts: n texts, redacted.
        targets: [n, labels], rows sum to 1.
        weights: [n], above 0; only their ratios count.
        start: a probe over all labels to start from the base with, or an earlier member (warm) over the first of them.
        settings: epochs, rates, dropout.
        seed: of the batches and the dropout; the same values and thread count give the same member.
        progress: told of (steps done, steps) before each.
    """
    warm = isinstance(start, Tuned)
    epochs, pace = (settings.warm_epochs, 0.5) if warm else (settings.epochs, 1.0)
    rows = encoder.tokenise(texts)
    if isinstance(start, Tuned) and start.labels < targets.shape[1]:
        start = _widened(start, rows, targets, weights)
    with torch.random.fork_rng(devices=[encoder.device] if encoder.device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = _Network(encoder, start, settings, seed=seed)
        trained = _Masters(network, settings, pace=pace)
        goal = torch.from_numpy(targets).to(encoder.device)
        share = torch.from_numpy((weights / weights.mean()).astype(np.float32)).to(encoder.device)
        rng = np.random.default_rng(seed)
        batches = [batch for _ in range(epochs) for batch in _batches(rows, settings.batch_rows, rng)]
        for step, index in enumerate(batches):
            progress(step, len(batches))
            logits = network.logits([rows[i] for i in index])
            loss = functional.cross_entropy(logits, goal[index], reduction="none")
            (loss * share[index]).mean().backward()  # type: ignore[no-untyped-call]
            trained.step(_schedule(step, len(batches)))
    return Tuned(
        encoder,
        changed={name: value.detach().float().cpu().clone() for name, value in trained.encoder.items()},
        weight=network.head.weight.detach().float().cpu(),
        bias=network.head.bias.detach().float().cpu(),
    )


def _widened(member: Tuned, rows: TokenIds, targets: FloatArray, weights: FloatArray) -> Tuned:
    """The earlier member with a classifier over all labels, probed on its own states.

    A label that it was never shown would start from nothing otherwise, and a warm fit is too short to make that up.
    """
    found = probe(member.pooled(rows), targets, weights)
    return member.with_classifier(found.weight, found.bias)


class _Network:
    """A trainable copy of the encoder's upper layers with a classifier on the pooled state."""

    def __init__(self, encoder: Encoder, start: Probe | Tuned, settings: FineTuneSettings, *, seed: int) -> None:
        self._encoder = encoder
        names = _trainable(encoder, settings.frozen_layers)
        own = dict(encoder.model.named_parameters())
        changed = {name: own[name].detach().float().cpu() for name in names}
        if isinstance(start, Tuned):
            changed |= {name: value for name, value in start.changed.items() if name in changed}
        self.start = changed
        self.model: Any = encoder.with_changed(changed)
        if encoder.device.type == "cpu":
            self.model.set_attn_implementation("eager")  # sdpa's bf16 backward takes 40 % of a step on a CPU
        self.dropout = _dropout(settings.dropout, encoder.device, seed)
        _set_dropout(self.model, self.dropout)
        self.model.train()
        self.parameters = {name: p for name, p in self.model.named_parameters() if name in changed}
        for parameter in self.parameters.values():
            parameter.requires_grad_(requires_grad=True)
        self.head = nn.Linear(encoder.hidden_size, len(start.bias), device=encoder.device)
        with torch.no_grad():
            self.head.weight.copy_(start.weight)
            self.head.bias.copy_(start.bias)

    def logits(self, rows: TokenIds) -> Tensor:
        """[batch, labels], with dropout."""
        ids, mask = self._encoder.pad(rows)
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        result: Tensor = self.head(self.dropout(mean_pool(hidden, mask)))
        return result


class _Masters:
    """The fp32 values that AdamW moves, and the weights that are computed with."""

    def __init__(self, network: _Network, settings: FineTuneSettings, *, pace: float) -> None:
        self._working = [*network.parameters.values(), network.head.weight, network.head.bias]
        values = [network.start[name].to(p.device) for name, p in network.parameters.items()]
        self._masters = [value.clone() for value in values] + [
            network.head.weight.detach().clone(),
            network.head.bias.detach().clone(),
        ]
        self.encoder = dict(zip(network.parameters, self._masters, strict=False))
        groups: list[dict[str, Any]] = []
        depth = _depths(network)
        for name, master in self.encoder.items():
            rate = settings.learning_rate * settings.layer_decay ** depth[name]
            decay = settings.weight_decay if master.ndim > 1 else 0.0
            groups.append({"params": [master], "lr": rate * pace, "weight_decay": decay})
        head = settings.head_learning_rate * pace
        groups.append({"params": self._masters[-2:-1], "lr": head, "weight_decay": settings.weight_decay})
        groups.append({"params": self._masters[-1:], "lr": head, "weight_decay": 0.0})
        self._rates = [group["lr"] for group in groups]
        self._optimiser = torch.optim.AdamW(groups, betas=_BETAS, fused=True)

    def step(self, factor: float) -> None:
        """One update at `factor` times the rates; the gradients are used up."""
        for master, working in zip(self._masters, self._working, strict=True):
            master.grad = working.grad.float() if working.grad is not None else torch.zeros_like(master)
            working.grad = None
        nn.utils.clip_grad_norm_(self._masters, _CLIP)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(self._working, self._masters)


def _trainable(encoder: Encoder, frozen_layers: int) -> list[str]:
    """Names of the parameters in the upper layers; an encoder of one layer trains that one."""
    layers = encoder.layers()
    upper = layers[min(frozen_layers, len(layers) - 1) :]
    wanted = {id(parameter) for layer in upper for parameter in layer.parameters()}
    return [name for name, parameter in encoder.model.named_parameters() if id(parameter) in wanted]


def _depths(network: _Network) -> dict[str, int]:
    """How many layers lie above each trained parameter's."""
    layers = network._encoder.layers(network.model)  # noqa: SLF001 - one file, one thing
    depth = {id(p): len(layers) - 1 - i for i, layer in enumerate(layers) for p in layer.parameters()}
    return {name: depth[id(parameter)] for name, parameter in network.parameters.items()}


def _dropout(probability: float, device: torch.device, seed: int) -> nn.Module:
    return ByteDropout(probability, np.random.SFC64(seed)) if device.type == "cpu" else nn.Dropout(probability)


def _set_dropout(model: nn.Module, dropout: nn.Module) -> None:
    """Dropout on hidden states, none on attention weights: a dropout beside a query projection is attention's."""
    for module in list(model.modules()):
        children = dict(module.named_children())
        attention = not _ATTENTION_PROJECTIONS.isdisjoint(children)
        for name, child in children.items():
            if isinstance(child, nn.Dropout):
                module.register_module(name, nn.Dropout(0.0) if attention else dropout)


def _batches(rows: TokenIds, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """One epoch: batches of like lengths in random order; ties in length fall anew each time."""
    order = np.lexsort((rng.random(len(rows)), np.array([len(row) for row in rows])))
    batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    for i in rng.permutation(len(batches)):
        yield batches[i]


def _schedule(step: int, steps: int) -> float:
    """A linear climb over the first tenth, then a linear fall to 2 %."""
    climb = max(1, math.ceil(_WARM_UP_RATIO * steps))
    if step < climb:
        return (step + 1) / climb
    return 1.0 - (1.0 - _FINAL_RATIO) * (step + 1 - climb) / max(1, steps - climb)
