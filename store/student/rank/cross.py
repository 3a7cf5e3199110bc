"""The cross-encoder: a base that reads a query and a document together, and gives one number.

It is a sequence classifier with one output. Its body, by itself, gives the vectors of queries by which novelty and
topics are measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from store.event import canonical_text
from store.student.encoder import Encoder, FloatArray, TokenIds, assign, changed_copy, empty_model

Pair = tuple[str, str]  # query, document

_IDS: Final = 0
_TYPES: Final = 1


class CrossEncoder(Encoder):
    """A sequence classifier with one output, and its body as an encoder of single texts."""

    reads: ClassVar[str] = "pairs"

    def __init__(self, *, model: Any, **named: Any) -> None:
        """Take the whole classifier; `model` is its body afterwards."""
        super().__init__(model=model.base_model, **named)
        self.whole = model
        self.typed = getattr(model.config, "type_vocab_size", 0) > 1  # it tells the query's tokens from the document's

    @staticmethod
    def build(config_json: bytes, weights: bytes) -> Any:
        """The whole classifier with the checkpoint's weights; raises as `Encoder.build`."""
        model = empty_model(config_json, AutoModelForSequenceClassification)
        assign(model, weights)
        return model.eval().requires_grad_(requires_grad=False)

    @property
    def parameters(self) -> int:
        """Of the whole classifier."""
        return sum(parameter.numel() for parameter in self.whole.parameters())

    def probe(self) -> FloatArray:
        """What it says to its longest pair."""
        return self.outputs_of([(self.longest(), [0] * self.max_tokens)])

    def with_changed(self, changed: Mapping[str, Tensor]) -> Any:
        """A copy of the whole classifier in which these parameters have these values; see `Encoder.with_changed`."""
        return changed_copy(self.whole, changed)

    def tokenise_pairs(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
        """Token ids and types of canonical texts, the longer one truncated until both fit in `max_tokens`."""
        texts = [(canonical_text(query), canonical_text(document)) for query, document in pairs]
        return [(one.ids, one.type_ids) for one in self._tokenizer.encode_batch(texts)]

    def pair_too_long(self, query: str, document: str) -> bool:
        """Whether `tokenise_pairs` would cut something off."""
        return bool(self._tokenizer.encode(canonical_text(query), canonical_text(document)).overflowing)

    def outputs(self, pairs: Sequence[Pair]) -> FloatArray:
        """The classifier's output, raw, [n]: a function of each pair alone, to the last bit, on one machine."""
        return self.outputs_of(self.tokenise_pairs(pairs))

    def outputs_of(self, rows: Sequence[tuple[list[int], list[int]]]) -> FloatArray:
        """The same of tokenised pairs, batched by length in fixed shapes."""
        result = np.empty(len(rows), np.float32)
        for tokens, index in self.by_shape([ids for ids, _ in rows]):
            with torch.inference_mode():
                logits = self.logits(self.whole, [rows[i] for i in index], steady_tokens=tokens)
            result[index] = logits[: len(index)].float().cpu().numpy()
        return result

    def logits(self, model: Any, rows: Sequence[tuple[list[int], list[int]]], *, steady_tokens: int = 0) -> Tensor:
        """One batch through the whole classifier, or a copy of it: [rows].

        With `steady_tokens` in the fixed shape of so many, with fillers after the rows.
        """
        ids, types = ([row[part] for row in rows] for part in (_IDS, _TYPES))
        batch: TokenIds = self.filled(ids) if steady_tokens else ids
        padded, mask = self.pad(batch, tokens=steady_tokens)
        named: dict[str, Tensor] = {}
        if self.typed:
            longest = padded.shape[1]
            filler = [[0] * longest] * (len(batch) - len(rows))
            told = [*([*row, *[0] * (longest - len(row))] for row in types), *filler]
            named["token_type_ids"] = torch.tensor(told, device=self.device)
        found: Tensor = model(input_ids=padded, attention_mask=mask, **named).logits
        return found.squeeze(-1)
