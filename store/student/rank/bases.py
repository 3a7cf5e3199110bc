"""What a ranking student stands on: a bi-encoder with kept vectors of documents, or a cross-encoder.

Which of them it is, its folder's configuration says: a sequence classifier with one output is a cross-encoder.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import numpy as np

from store.errors import SwapRefusedError
from store.event import RankInput
from store.student.encoder import Encoder, FloatArray
from store.student.folder import CONFIG_NAME, classifier_outputs, several_outputs
from store.student.rank.cross import CrossEncoder
from store.student.rank.vectors import DEFAULT_MAX_BYTES, VectorCache, sentence_vectors, shared_vectors
from store.tasks.rank import document_key

_OUTPUTS_KEPT: Final = 65_536  # of pairs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matched:
    """What a base makes of one list of n documents."""

    query: FloatArray  # [hidden], length 1: novelty and topics are of it
    similarity: FloatArray  # [n] cosines, or the outputs of a cross-encoder
    keys: tuple[str, ...]  # [n] the documents' keys
    documents: FloatArray | None = None  # [n, hidden], length 1 each; None: they are read with the query alone

    @property
    def features(self) -> FloatArray:
        """[n, features] that a head may correct the similarity by; none of a cross-encoder, which has seen it all."""
        if self.documents is None:
            return np.empty((len(self.keys), 0), np.float32)
        return pair_features(self.query, self.documents)

    @staticmethod
    def of_vectors(query: FloatArray, documents: FloatArray, keys: tuple[str, ...]) -> "Matched":
        """By the cosine."""
        return Matched(query=query, similarity=rows_dot(documents, query), keys=keys, documents=documents)


class Base(Protocol):
    """A frozen base, or a fine-tuned copy of one."""

    @property
    def encoder(self) -> Encoder:
        """With its tokenizer."""

    @property
    def features(self) -> int:
        """Width of `Matched.features`."""

    def match(self, lists: Sequence[RankInput]) -> list[Matched]:
        """Of redacted lists, computed in whole batches; the order in which documents are given changes no number."""

    def tokens(self, value: RankInput) -> int:
        """About how many tokens a forward pass reads; what is kept costs none."""

    def too_long(self, value: RankInput) -> bool:
        """Whether it would not read all of it."""

    def fresh(self) -> "Base":
        """The same that keeps nothing yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BiEncoderBase:
    """Queries and documents as vectors, the documents' kept. Satisfies `Base`."""

    vectors: VectorCache

    @property
    def encoder(self) -> Encoder:
        """See `Base`."""
        return self.vectors.encoder

    @property
    def features(self) -> int:
        """See `Base`."""
        return features_of(self.encoder)

    def match(self, lists: Sequence[RankInput]) -> list[Matched]:
        """See `Base`."""
        asked = sentence_vectors(self.encoder, [one.query for one in lists])
        documents, keys = self.vectors.documents([text for one in lists for text in one.documents])
        found, start = list[Matched](), 0
        for query, one in zip(asked, lists, strict=True):
            its = slice(start, start := start + len(one.documents))
            found.append(Matched.of_vectors(query, documents[its], keys[its]))
        return found

    def tokens(self, value: RankInput) -> int:
        """See `Base`."""
        return sum(map(self.encoder.about_tokens, (value.query, *self.vectors.lacks(value.documents))))

    def too_long(self, value: RankInput) -> bool:
        """See `Base`."""
        return self.encoder.too_long(value.query) or self.vectors.too_long(value.documents)

    def fresh(self) -> "BiEncoderBase":
        """See `Base`."""
        return BiEncoderBase(vectors=VectorCache(self.encoder))


class CrossEncoderBase:
    """Every pair is read by itself; the newest pairs' outputs are kept. Satisfies `Base`. Safe for several threads.

    A list that is read in portions is so computed once, whatever its length.
    """

    def __init__(self, encoder: CrossEncoder) -> None:
        """Keep nothing yet."""
        self.encoder = encoder
        self._kept: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def features(self) -> int:
        """See `Base`."""
        return features_of(self.encoder)

    def match(self, lists: Sequence[RankInput]) -> list[Matched]:
        """See `Base`."""
        asked = sentence_vectors(self.encoder, [one.query for one in lists])
        pairs = {pair_key(one.query, text): (one.query, text) for one in lists for text in one.documents}
        with self._lock:
            known = {key: self._kept[key] for key in pairs if key in self._kept}
        missing = {key: pair for key, pair in pairs.items() if key not in known}
        if missing:
            known |= dict(zip(missing, self.encoder.outputs(list(missing.values())).tolist(), strict=True))
        self.keep(known)
        return [
            Matched(
                query=query,
                similarity=np.array([known[pair_key(one.query, text)] for text in one.documents], np.float32),
                keys=tuple(map(document_key, one.documents)),
            )
            for query, one in zip(asked, lists, strict=True)
        ]

    def keep(self, outputs: Mapping[str, float]) -> None:
        """Hold outputs by the pairs' keys; the least recently used ones are forgotten first."""
        with self._lock:
            for key, value in outputs.items():
                self._kept[key] = value
                self._kept.move_to_end(key)
            while len(self._kept) > _OUTPUTS_KEPT:
                self._kept.popitem(last=False)

    def tokens(self, value: RankInput) -> int:
        """See `Base`: every pair reads the query once more."""
        query = self.encoder.about_tokens(value.query)
        new = {key: text for text in value.documents if (key := pair_key(value.query, text)) not in self._kept}
        return query + sum(
            min(self.encoder.max_tokens, query + self.encoder.about_tokens(text)) for text in new.values()
        )

    def too_long(self, value: RankInput) -> bool:
        """See `Base`."""
        return any(self.encoder.pair_too_long(value.query, text) for text in value.documents)

    def fresh(self) -> "CrossEncoderBase":
        """See `Base`."""
        return CrossEncoderBase(self.encoder)


_shared: "WeakValueDictionary[str, CrossEncoderBase]" = WeakValueDictionary()
_sharing = threading.Lock()


def base_on(encoder: Encoder, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Base:
    """A base of one's own on an encoder; `max_bytes` of memory for vectors, where it keeps any."""
    if isinstance(encoder, CrossEncoder):
        return CrossEncoderBase(encoder)
    return BiEncoderBase(vectors=VectorCache(encoder, max_bytes=max_bytes))


def shared_base(encoder: Encoder) -> Base:
    """The process's base on an encoder: what one version has computed, the next one need not."""
    if not isinstance(encoder, CrossEncoder):
        return BiEncoderBase(vectors=shared_vectors(encoder))
    name = f"{encoder.fingerprint}@{encoder.device}"
    with _sharing:
        found = _shared.get(name)
        if found is None:
            found = _shared[name] = CrossEncoderBase(encoder)
        return found


def features_of(encoder: Encoder) -> int:
    """Width of `Matched.features` on this encoder."""
    return 0 if isinstance(encoder, CrossEncoder) else 2 * encoder.hidden_size


def kind_of(config_json: bytes) -> type[Encoder]:
    """What a base's configuration says it is; what is no configuration is left to whoever loads it.

    Raises:
        SwapRefusedError: it is a classifier of several outputs.
    """
    try:
        config: Any = json.loads(config_json)
    except ValueError:
        return Encoder
    if not isinstance(config, dict):
        return Encoder
    if (why := several_outputs(config)) is not None:
        raise SwapRefusedError(why)
    return Encoder if classifier_outputs(config) is None else CrossEncoder


def load_base(source: Path, **named: Any) -> Encoder:
    """Load a base from its folder, as the kind that it is; the rest is `Encoder.load`'s, as are its errors.

    Raises:
        SwapRefusedError: also where it is a classifier of several outputs.
    """
    return kind_of((source / CONFIG_NAME).read_bytes()).load(source, **named)


def pair_key(query: str, document: str) -> str:
    """A stable name of a pair of texts."""
    return document_key(query) + document_key(document)


def rows_dot(rows: FloatArray, vector: FloatArray) -> FloatArray:
    """[n] products of rows [n, size] with a vector [size], each a function of its row alone, to the last bit.

    A matrix product rounds a row by where it stands, and documents in another order would have other scores.
    """
    result: FloatArray = np.vecdot(rows, vector)
    return result


def pair_features(query: FloatArray, documents: FloatArray) -> FloatArray:
    """[q * d, |q - d|] of a query [hidden] with each of its documents [n, hidden]: [n, 2 * hidden]."""
    result: FloatArray = np.concatenate([query * documents, np.abs(query - documents)], axis=-1)
    return result
