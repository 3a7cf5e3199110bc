"""The fast member: logistic regression and shrunk linear discriminants on the frozen encoder's features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from store.errors import CorruptVersionError
from store.student.encoder import FloatArray

LDA_LAYERS: Final = 2  # the discriminants read the last two layers only
LDA_SHARE: Final = 2.0  # against 1 for logistic regression


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Two linear classifiers whose probabilities are averaged, 1 : 2. All float32 on the CPU."""

    lr_weight: Tensor  # [labels, features]
    lr_bias: Tensor  # [labels]
    lda_weight: Tensor  # [labels, last two layers' features], the discriminants' scale included
    lda_bias: Tensor  # [labels], the class prior included

    def probs(self, features: FloatArray) -> FloatArray:
        """(softmax(LR) + 2 softmax(LDA)) / 3: [n, labels] from [n, features]."""
        rows = torch.from_numpy(features)
        lr = torch.softmax(rows @ self.lr_weight.T + self.lr_bias, dim=-1)
        lda = torch.softmax(rows[:, -self.lda_weight.shape[1] :] @ self.lda_weight.T + self.lda_bias, dim=-1)
        result: FloatArray = ((lr + LDA_SHARE * lda) / (1.0 + LDA_SHARE)).numpy()
        return result

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as `head.safetensors` holds them."""
        return {
            "lda.bias": self.lda_bias,
            "lda.weight": self.lda_weight,
            "lr.bias": self.lr_bias,
            "lr.weight": self.lr_weight,
        }

    @property
    def parameters(self) -> int:
        """How many numbers are served."""
        return sum(tensor.numel() for tensor in self.tensors().values())

    @staticmethod
    def of(tensors: Mapping[str, Tensor], *, labels: int, feature_size: int, hidden_size: int) -> "Heads":
        """The heads in a version's tensors.

        Raises:
            CorruptVersionError: a tensor is missing, or does not fit the label map or the encoder.
        """
        lda_size = lda_feature_size(feature_size, hidden_size)
        shapes = {
            "lda.bias": (labels,),
            "lda.weight": (labels, lda_size),
            "lr.bias": (labels,),
            "lr.weight": (labels, feature_size),
        }
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != shapes:
            message = f"head tensors {found} do not fit {labels} labels and {feature_size} features"
            raise CorruptVersionError(message)
        return Heads(
            lr_weight=tensors["lr.weight"].float(),
            lr_bias=tensors["lr.bias"].float(),
            lda_weight=tensors["lda.weight"].float(),
            lda_bias=tensors["lda.bias"].float(),
        )


def lda_feature_size(feature_size: int, hidden_size: int) -> int:
    """How many of the last features the discriminants read."""
    return min(feature_size, LDA_LAYERS * hidden_size)
