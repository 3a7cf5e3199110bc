"""What a training of a decoder's top layers comes to: an adapter in peft's files, or the layers themselves.

A server that is handed a broken adapter may accept it and answer nonsense, for the base's requests as well. So every
name, shape and number is checked here, before anything loads it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from torch import Tensor, nn

from store.errors import CorruptVersionError
from store.student.chat.decoder import Decoder
from store.student.chat.stack import Stack
from store.student.encoder import read_tensors

ADAPTER_CONFIG: Final = "adapter/adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter/adapter_model.safetensors"
TUNED_NAME: Final = "tuned.safetensors"

LAYERS: Final = "model.layers."
PEFT: Final = "base_model.model."  # what peft puts before the model's own names
A: Final = ".lora_A.weight"
B: Final = ".lora_B.weight"

_KIND: Final = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none"}
_PLAIN: Final = ("r", "lora_alpha", "target_modules", "layers_to_transform")
_IDLE: Final = frozenset(
    {  # settings that change nothing about an adapter that is there
        *("base_model_name_or_path", "revision", "peft_version", "inference_mode", "init_lora_weights", "lora_dropout"),
        *("layers_pattern", "megatron_core", "qalora_group_size", "auto_mapping"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What differs from the base, in float32 on the CPU."""

    first: int  # trained layer; all above it are trained, too
    rank: int | None  # of the adapter; None: the layers in full
    alpha: int  # the adapter's product counts alpha / rank times
    tensors: Mapping[str, Tensor]  # an adapter's by the names that peft gives them; else parameters by the model's

    def on(self, base: Decoder) -> Decoder:
        """The base with what was trained merged into it: W + alpha / rank * B A (Hu et al. 2021).

        Raises:
            CorruptVersionError: it was trained on another decoder, or is broken.
        """
        self.check(base.stack)
        if self.rank is None:
            return base.twin(self.tensors)
        own = dict(base.model.named_parameters())
        changed = {}
        for name, first in self.tensors.items():
            if name.endswith(A):
                path = name.removeprefix(PEFT).removesuffix(A)
                product = self.tensors[f"{PEFT}{path}{B}"].float() @ first.float()
                weight = own[f"{path}.weight"]
                changed[f"{path}.weight"] = weight.float().cpu() + self.alpha / self.rank * product
        return base.twin(changed)

    def check(self, stack: Stack) -> None:
        """See that every tensor is there, is finite, and fits the base's layers; and that there is no other.

        Raises:
            CorruptVersionError: not so; the message says what is wrong.
        """
        if not 0 <= self.first < stack.layers:
            message = f"trained layers from {self.first} on do not fit a decoder of {stack.layers}"
            raise CorruptVersionError(message)
        if self.rank is not None and (self.rank < 1 or self.alpha < 1):
            message = f"an adapter of rank {self.rank} and alpha {self.alpha} is none"
            raise CorruptVersionError(message)
        wanted = _full(stack, self.first) if self.rank is None else _low(stack, self.first, self.rank)
        missing, unknown = sorted(wanted.keys() - self.tensors.keys()), sorted(self.tensors.keys() - wanted.keys())
        for problem, names in (("lack", missing), ("have unknown", unknown)):
            if names:
                message = f"the trained layers {problem} {', '.join(names[:3])} ({len(names)} in all)"
                raise CorruptVersionError(message)
        for name, shape in wanted.items():
            value = self.tensors[name]
            if tuple(value.shape) != shape:
                message = f"the trained tensor {name} is {tuple(value.shape)}, and {shape} would fit"
                raise CorruptVersionError(message)
            if not value.is_floating_point() or not bool(value.isfinite().all()):
                message = f"the trained tensor {name} holds NaN or infinite values, or no numbers"
                raise CorruptVersionError(message)

    def files(self) -> dict[str, bytes]:
        """Its files by their names in a version."""
        tensors = {name: value.contiguous() for name, value in self.tensors.items()}
        if self.rank is None:
            return {TUNED_NAME: safetensors.torch.save(tensors)}
        return {
            ADAPTER_CONFIG: json.dumps(self._config(), indent=2, sort_keys=True).encode(),
            ADAPTER_WEIGHTS: safetensors.torch.save(tensors, {"format": "pt"}),
        }

    def write(self, directory: Path) -> None:
        """Put its files into a version's folder."""
        for name, data in self.files().items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(data)

    @staticmethod
    def read(files: Mapping[str, bytes], stack: Stack, *, layers: int, rank: int | None) -> "Trained":
        """What a version's files hold, checked against its record and its base.

        Args:
            files: verified bytes by their names in a version.
            stack: of the base.
            layers: trained ones, from the top, as the record says.
            rank: of the adapter, as the record says.

        Raises:
            CorruptVersionError: a file is missing or unreadable, or disagrees with the record or the base.
        """
        if not 1 <= layers <= stack.layers:
            message = f"{layers} trained layers do not fit a decoder of {stack.layers}"
            raise CorruptVersionError(message)
        if rank is None:
            tensors = read_tensors(TUNED_NAME, _file(files, TUNED_NAME))
            found = Trained(first=stack.layers - layers, rank=None, alpha=0, tensors=tensors)
        else:
            tensors = read_tensors(ADAPTER_WEIGHTS, _file(files, ADAPTER_WEIGHTS))
            alpha = _alpha(_file(files, ADAPTER_CONFIG), stack, first=stack.layers - layers, rank=rank)
            found = Trained(first=stack.layers - layers, rank=rank, alpha=alpha, tensors=tensors)
        found.check(stack)
        return found

    def _config(self) -> dict[str, Any]:
        """As peft reads it."""
        paths = [name.removeprefix(PEFT + LAYERS).removesuffix(A) for name in self.tensors if name.endswith(A)]
        return {
            **_KIND,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": sorted({path.rsplit(".", 1)[-1] for path in paths}),
            "layers_to_transform": sorted({int(path.split(".", 1)[0]) for path in paths}),
            "layers_pattern": "layers",
            "inference_mode": True,
        }


def _full(stack: Stack, first: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters of the layers from `first` on, by name."""
    return {
        f"{LAYERS}{number}.{name}": tuple(parameter.shape)
        for number in range(first, stack.layers)
        for name, parameter in stack.modules[number].named_parameters()
    }


def _low(stack: Stack, first: int, rank: int) -> dict[str, tuple[int, ...]]:
    """Shapes of an adapter of all projections of the layers from `first` on, by peft's names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(first, stack.layers):
        for name, module in _projections(stack.modules[number]).items():
            path = f"{PEFT}{LAYERS}{number}.{name}"
            shapes[f"{path}{A}"] = (rank, module.in_features)
            shapes[f"{path}{B}"] = (module.out_features, rank)
    return shapes


def _projections(layer: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    try:
        return files[name]
    except KeyError as error:
        message = f"a version of chat needs {name}"
        raise CorruptVersionError(message) from error


def _alpha(config: bytes, stack: Stack, *, first: int, rank: int) -> int:
    """The adapter's alpha, of a configuration that says what its tensors are and asks for nothing else."""
    try:
        said = dict(json.loads(config))
        found = {
            "r": int(said["r"]),
            "target_modules": sorted(said["target_modules"]),
            "layers_to_transform": sorted(said["layers_to_transform"]),
            **{name: said.get(name) for name in _KIND},
        }
        alpha = int(said["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{ADAPTER_CONFIG} is no configuration of an adapter: {error!r}"
        raise CorruptVersionError(message) from error
    wanted = {
        "r": rank,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in _projections(stack.modules[first])}),
        "layers_to_transform": list(range(first, stack.layers)),
        **_KIND,
    }
    for name, value in found.items():
        if value != wanted[name]:
            message = f"{ADAPTER_CONFIG} says {name} {value}, and the version {wanted[name]}"
            raise CorruptVersionError(message)
    odd = sorted(name for name, value in said.items() if value and name not in _IDLE | wanted.keys() | set(_PLAIN))
    if odd:
        message = f"{ADAPTER_CONFIG} asks for {', '.join(odd)}, which this release does not merge"
        raise CorruptVersionError(message)
    return alpha
