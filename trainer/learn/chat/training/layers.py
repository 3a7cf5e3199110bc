"""The top layers of a decoder in training: an adapter of low rank on their projections, or all of their weights.

What is trained is float32 whatever the decoder computes in, and on a CPU so is all that is computed with it: bf16 there
is for answering. Everything below is the decoder's own, shared and frozen.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from store.student.chat.adapter import LAYERS, PEFT, A, B, Trained
from store.student.chat.stack import Stack
from trainer.learn.chat.training.crew import whole


class LowRank(nn.Module):
    """A frozen projection with a trained one of low rank beside it (Hu et al. 2021): W x + alpha / r B A x."""

    def __init__(self, inner: nn.Linear, rank: int, alpha: int, generator: torch.Generator) -> None:
        """Begin at no difference: A is random, B is zero."""
        super().__init__()
        self.inner = inner
        first = torch.empty(rank, inner.in_features)
        nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
        device = inner.weight.device
        self.lora_a = nn.Parameter(first.to(device))
        self.lora_b = nn.Parameter(torch.zeros(inner.out_features, rank, device=device))
        self._scale = alpha / rank

    def forward(self, states: Tensor) -> Tensor:
        """[..., out] of [..., in]."""
        known: Tensor = self.inner(states)
        return known + self._scale * functional.linear(functional.linear(states, self.lora_a), self.lora_b)


class TopLayers:
    """A copy of the decoder in which the layers from `first` on can be trained; the base is not changed."""

    def __init__(
        self,
        stack: Stack,
        *,
        first: int,
        rank: int | None,
        alpha: int,
        start: Trained | None,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        """Begin with the base's layers, or where an earlier training has come to.

        Args:
            stack: of the base.
            first: the lowest layer that is trained.
            rank: of the adapter; None: the layers in full.
            alpha: see `Trained`.
            start: of the same layers and rank.
            seed: of the adapter's first weights.
            device: that will compute; the layers are brought there by who shares them out. None: where the base is.
        """
        self.first, self._rank, self._alpha = first, rank, alpha
        computes = device or stack.device
        model, is_cpu, is_coarse = stack.model, computes.type == "cpu", stack.head.dtype == torch.bfloat16
        own = {id(one) for layer in stack.modules[first:] for one in layer.parameters()}
        kept = [one for one in model.parameters() if id(one) not in own or not (rank is None or (is_cpu and is_coarse))]
        twin: Any = copy.deepcopy(model, {id(one): one for one in [*kept, *model.buffers()]})
        self.stack = Stack(twin)
        self.autocast = is_coarse and not is_cpu
        if is_cpu:
            twin.set_attn_implementation("eager")
        if is_cpu and is_coarse:
            for layer in self.stack.modules[first:]:
                layer.float()
            for module in (twin.model.norm, twin.lm_head):
                module.weight = nn.Parameter(module.weight.float(), requires_grad=False)
        if computes != stack.device:
            for module in (twin.model.norm, twin.lm_head):
                module.weight = nn.Parameter(module.weight.to(computes), requires_grad=False)
            twin.model.rotary_emb.to(computes)
        if rank is not None:
            self._held = dict(self._adapt(rank, alpha, torch.Generator().manual_seed(seed)))
        else:
            self._held = dict(self._free())
        if start is not None:
            with torch.no_grad():
                for name, value in self._named().items():
                    value.copy_(start.tensors[name])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """That are trained, float32, in the order of their names."""
        return list(self._named().values())

    def taken(self, states: Tensor) -> Tensor:
        """States of the layers below, as these layers compute."""
        return states if self.autocast else states.to(self.stack.head.dtype)

    def trained(self) -> Trained:
        """What they have become."""
        tensors = {name: whole(one.detach()).cpu().clone() for name, one in self._named().items()}
        return Trained(first=self.first, rank=self._rank, alpha=self._alpha, tensors=tensors)

    def _named(self) -> dict[str, nn.Parameter]:
        """By name; looked up anew each time, since who shares layers out puts other tensors into them."""
        return {name: getattr(module, at) for name, (module, at) in sorted(self._held.items())}

    def _adapt(self, rank: int, alpha: int, generator: torch.Generator) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
        for number in range(self.first, self.stack.layers):
            layer = self.stack.modules[number]
            found = [(name, one) for name, one in layer.named_modules() if isinstance(one, nn.Linear)]
            for name, linear in found:
                outer, _, last = name.rpartition(".")
                beside = LowRank(linear, rank, alpha, generator)
                setattr(layer.get_submodule(outer), last, beside)
                path = f"{PEFT}{LAYERS}{number}.{name}"
                yield f"{path}{A}", (beside, "lora_a")
                yield f"{path}{B}", (beside, "lora_b")

    def _free(self) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
        for number in range(self.first, self.stack.layers):
            layer = self.stack.modules[number].float()
            for name, parameter in layer.named_parameters():
                parameter.requires_grad_()
                inner, _, at = name.rpartition(".")
                yield f"{LAYERS}{number}.{name}", (layer.get_submodule(inner), at)
