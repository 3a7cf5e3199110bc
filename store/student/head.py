"""The fast member: shrunk linear discriminants on the frozen encoder's features."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from store.errors import CorruptVersionError, SwapRefusedError
from store.student.encoder import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One linear classifier, float32 on the CPU."""

    weight: Tensor  # [labels, features], the discriminants' scale included
    bias: Tensor  # [labels], the class prior included

    def probs(self, features: FloatArray) -> FloatArray:
        """Softmax of the discriminants: [n, labels] from [n, features]."""
        result: FloatArray = torch.softmax(torch.from_numpy(features) @ self.weight.T + self.bias, dim=-1).numpy()
        return result

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as `head.safetensors` holds them."""
        return {"bias": self.bias, "weight": self.weight}

    @property
    def parameters(self) -> int:
        """How many numbers are served."""
        return self.weight.numel() + self.bias.numel()

    @staticmethod
    def of(tensors: Mapping[str, Tensor], *, labels: int, feature_size: int) -> "Head":
        """The head in a version's tensors.

        Raises:
            SwapRefusedError: the version is of a release whose head was another one.
            CorruptVersionError: a tensor is missing, or does not fit the label map or the encoder.
        """
        if "lda.weight" in tensors:
            message = "its head mixes two classifiers, as an earlier release's did: this release does not serve it"
            raise SwapRefusedError(message)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != {"bias": (labels,), "weight": (labels, feature_size)}:
            message = f"head tensors {found} do not fit {labels} labels and {feature_size} features"
            raise CorruptVersionError(message)
        return Head(weight=tensors["weight"].float(), bias=tensors["bias"].float())
