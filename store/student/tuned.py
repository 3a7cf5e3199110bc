"""The slow member: the same encoder, fine-tuned above its lowest layers, with a classifier of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from store.errors import CorruptVersionError
from store.student.encoder import Encoder, FloatArray, TokenIds

SMALLEST_PROBABILITY: Final = 1e-6  # that a member has, where members are pooled

_WEIGHT: Final = "classifier.weight"
_BIAS: Final = "classifier.bias"
_ENCODER: Final = "encoder/"


class Tuned:
    """Parameters that differ from the base, and a linear classifier on the last layer's pooled state.

    It may know fewer labels than the student: labels that came after it was trained. They are the last ones.
    """

    def __init__(self, encoder: Encoder, *, changed: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> None:
        self.changed = dict(changed)  # float32 on the CPU: the next training goes on from them
        self.weight = weight.float()  # [labels, hidden]
        self.bias = bias.float()  # [labels]
        self._encoder = encoder
        self._model: Any = encoder.with_changed(changed)

    @property
    def labels(self) -> int:
        """How many of the student's first labels it knows."""
        return int(self.weight.shape[0])

    @property
    def parameters(self) -> int:
        """How many numbers are served beside the base's."""
        return sum(tensor.numel() for tensor in self.tensors().values())

    def logits(self, rows: TokenIds, *, steady: bool = False) -> FloatArray:
        """[n, labels] for tokenised texts; `steady` as in `Encoder.pooled`."""
        pooled = torch.from_numpy(self.pooled(rows, steady=steady))
        result: FloatArray = (pooled @ self.weight.T + self.bias).numpy()
        return result

    def pooled(self, rows: TokenIds, *, steady: bool = False) -> FloatArray:
        """[n, hidden] of tokenised texts: what its classifier reads; `steady` as in `Encoder.pooled`."""
        return self._encoder.pooled(rows, layers=1, model=self._model, steady=steady)

    def with_classifier(self, weight: Tensor, bias: Tensor) -> "Tuned":
        """The same encoder under another classifier: [labels, hidden] and [labels]."""
        return Tuned(self._encoder, changed=self.changed, weight=weight, bias=bias)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as `tuned.safetensors` holds them."""
        named = {f"{_ENCODER}{name}": value for name, value in self.changed.items()}
        return {**named, _WEIGHT: self.weight, _BIAS: self.bias}

    @staticmethod
    def of(tensors: Mapping[str, Tensor], *, encoder: Encoder, labels: int) -> "Tuned":
        """The member in a version's tensors.

        Raises:
            CorruptVersionError: a tensor is missing or unknown, or does not fit the label map or the encoder.
        """
        weight, bias = tensors.get(_WEIGHT), tensors.get(_BIAS)
        if weight is None or bias is None or weight.shape != (len(bias), encoder.hidden_size) or len(bias) > labels:
            message = f"the fine-tuned classifier does not fit {labels} labels and {encoder.hidden_size} units"
            raise CorruptVersionError(message)
        changed = {name: value.float() for name, value in tensors.items() if name not in {_WEIGHT, _BIAS}}
        foreign = [name for name in changed if not name.startswith(_ENCODER)]
        if foreign:
            message = f"the fine-tuned member holds unknown tensors: {', '.join(foreign[:3])}"
            raise CorruptVersionError(message)
        changed = {name.removeprefix(_ENCODER): value for name, value in changed.items()}
        return Tuned(encoder, changed=changed, weight=weight, bias=bias)


def spread(logits: FloatArray, elders: FloatArray) -> FloatArray:
    """The fine-tuned member's probabilities over all labels: [n, labels].

    On labels it was never shown it says what the head says, and it shares out what it leaves.

    Args:
        logits: [n, labels it knows].
        elders: the head's probabilities, [n, labels].
    """
    known = logits.shape[1]
    probs = torch.softmax(torch.from_numpy(logits), dim=-1).numpy()
    rest = elders[:, known:]
    result: FloatArray = np.concatenate([probs * (1.0 - rest.sum(axis=1, keepdims=True)), rest], axis=1)
    return result


def pool(members: Sequence[FloatArray], weights: Sequence[float]) -> FloatArray:
    """The members' logarithmic opinion pool (Genest and Zidek 1986): [n, labels].

    In proportion to the product of what each says, to the power of its weight. No member has a veto: a probability is
    at least 1e-6, which is also what opinions are kept to.

    Args:
        members: [n, labels] each.
        weights: one a member; they sum to 1.
    """
    logprobs = np.log(np.maximum(np.stack(members), SMALLEST_PROBABILITY))
    pooled = np.tensordot(np.asarray(weights, dtype=np.float32), logprobs, axes=1)
    result: FloatArray = torch.softmax(torch.from_numpy(pooled), dim=-1).numpy()
    return result
