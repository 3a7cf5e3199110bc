"""What a training of a decoder's top layers comes to: an adapter in peft's files, or the layers themselves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from torch import Tensor

from store.student.chat.decoder import Decoder

PEFT: Final = "base_model.model."
LAYERS: Final = "model.layers."
A: Final = ".lora_A.weight"
B: Final = ".lora_B.weight"
ADAPTER_CONFIG: Final = "adapter/adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter/adapter_model.safetensors"
TUNED_NAME: Final = "tuned.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What differs from the base, in float32 on the CPU."""

    first: int  # trained layer
    rank: int | None  # of the adapter; None: the layers in full
    alpha: int  # the adapter's product counts alpha / rank times
    tensors: Mapping[str, Tensor]  # an adapter's by the names that peft gives them; else parameters by the model's

    def on(self, base: Decoder) -> Decoder:
        """The base with what was trained merged into it."""
        if self.rank is None:
            return base.twin(self.tensors)
        own = dict(base.model.named_parameters())
        changed = {}
        for name, first in self.tensors.items():
            if name.endswith(A):
                path = name.removeprefix(PEFT).removesuffix(A)
                product = self.tensors[f"{PEFT}{path}{B}"] @ first
                weight = own[f"{path}.weight"]
                changed[f"{path}.weight"] = weight.float().cpu() + self.alpha / self.rank * product
        return base.twin(changed)

    def write(self, directory: Path) -> None:
        """Put its files into a version's folder."""
        if self.rank is None:
            (directory / TUNED_NAME).write_bytes(safetensors.torch.save(dict(self.tensors)))
            return
        (directory / ADAPTER_WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
        (directory / ADAPTER_WEIGHTS).write_bytes(safetensors.torch.save(dict(self.tensors), {"format": "pt"}))
        (directory / ADAPTER_CONFIG).write_text(json.dumps(self.config(), sort_keys=True))

    def config(self) -> dict[str, Any]:
        """As peft reads it."""
        paths = [name.removeprefix(PEFT + LAYERS).removesuffix(A) for name in self.tensors if name.endswith(A)]
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted({path.rsplit(".", 1)[-1] for path in paths}),
            "layers_to_transform": sorted({int(path.split(".", 1)[0]) for path in paths}),
            "layers_pattern": "layers",
            "inference_mode": True,
        }
