"""Vectors of documents, computed once: most documents of a catalogue come again in the next request.

Kept by the document's key and the encoder's fingerprint, so versions with the same base share them.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from store.student.encoder import Encoder, FloatArray
from store.tasks.rank import document_key

DEFAULT_MAX_BYTES: Final = 256 << 20
_OVERHEAD_BYTES: Final = 500  # of a key, its entries and an array, beside the numbers


class VectorCache:
    """Document vectors of one encoder, the least recently used ones forgotten first. Safe for several threads."""

    def __init__(self, encoder: Encoder, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Hold nothing yet.

        Args:
            encoder: computes what is not here.
            max_bytes: of memory, at least one vector's.
        """
        self.encoder = encoder
        self.most = max(1, max_bytes // (4 * encoder.hidden_size + _OVERHEAD_BYTES))
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[str, FloatArray] = OrderedDict()
        self._long: OrderedDict[str, bool] = OrderedDict()  # whether the encoder cuts a document, where that was asked
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many documents are known."""
        return len(self._kept)

    def documents(self, texts: Sequence[str]) -> tuple[FloatArray, tuple[str, ...]]:
        """Vectors [n, hidden] of length 1 of redacted documents, and their keys [n].

        Args:
            texts: [n].
        """
        keys = tuple(document_key(text) for text in texts)
        with self._lock:
            known = {key: self._kept[key] for key in set(keys) if key in self._kept}
            for key in known:
                self._kept.move_to_end(key)
            self.hits += len(known)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            found = dict(zip(missing, sentence_vectors(self.encoder, list(missing.values())), strict=True))
            known |= found
            with self._lock:
                self.misses += len(found)
                self._keep(found)
        return np.stack([known[key] for key in keys]) if keys else self._nothing(), keys

    def lacks(self, texts: Sequence[str]) -> list[str]:
        """Those of the documents that would have to be computed, each once."""
        missing = {key: text for text in texts if (key := document_key(text)) not in self._kept}
        return list(missing.values())

    def too_long(self, texts: Sequence[str]) -> bool:
        """Whether the encoder would not read all of one of the documents; each is looked at once, then remembered."""
        asked = {document_key(text): text for text in texts}
        with self._lock:
            known = {key: self._long[key] for key in asked if key in self._long}
            for key in known:
                self._long.move_to_end(key)
        if any(known.values()):
            return True
        found = {key: self.encoder.too_long(text) for key, text in asked.items() if key not in known}
        with self._lock:
            self._long |= found
            while len(self._long) > self.most:
                self._long.popitem(last=False)
        return any(found.values())

    def prime(self, keys: Sequence[str], vectors: FloatArray) -> None:
        """Hold vectors that were computed before.

        Args:
            keys: [n] of documents, as `store.tasks.rank.document_key` gives them.
            vectors: [n, hidden] of length 1, as the encoder would give them.

        Raises:
            ValueError: the shapes do not fit, or a number is not finite.
        """
        if vectors.shape != (len(keys), self.encoder.hidden_size) or not np.isfinite(vectors).all():
            message = (
                f"vectors {vectors.shape} for {len(keys)} documents, {self.encoder.hidden_size} finite numbers each"
            )
            raise ValueError(message)
        with self._lock:
            self._keep(dict(zip(keys, vectors.astype(np.float32), strict=True)))

    def _keep(self, found: dict[str, FloatArray]) -> None:
        for key, vector in found.items():
            self._kept[key] = vector.copy()  # a view would keep the whole batch alive
            self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)

    def _nothing(self) -> FloatArray:
        return np.empty((0, self.encoder.hidden_size), np.float32)


_shared: "WeakValueDictionary[str, VectorCache]" = WeakValueDictionary()
_sharing = threading.Lock()


def shared_vectors(encoder: Encoder, *, max_bytes: int = DEFAULT_MAX_BYTES) -> VectorCache:
    """The process's one cache of an encoder's document vectors, for as long as anybody holds it.

    Args:
        encoder: equal fingerprints on one device share a cache.
        max_bytes: of memory, where the cache is new.
    """
    name = f"{encoder.fingerprint}@{encoder.device}"
    with _sharing:
        cache = _shared.get(name)
        if cache is None:
            cache = VectorCache(encoder, max_bytes=max_bytes)
            _shared[name] = cache
        return cache


class VectorCounts(NamedTuple):
    """What the process's shared caches have done since it started, and hold."""

    hits: int
    misses: int
    kept: int


def vector_counts() -> VectorCounts:
    """Of all caches together; of those that nobody holds any more nothing is told."""
    with _sharing:
        caches = list(_shared.values())
    return VectorCounts(
        hits=sum(cache.hits for cache in caches),
        misses=sum(cache.misses for cache in caches),
        kept=sum(map(len, caches)),
    )


def sentence_vectors(encoder: Encoder, texts: Sequence[str]) -> FloatArray:
    """The last layer's mean over each text's tokens, with length 1: [n, hidden]; a function of each text alone."""
    result: NDArray[np.float32] = encoder.pooled(encoder.tokenise(texts), layers=1, steady=True)
    return result
