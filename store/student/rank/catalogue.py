"""A lane's catalogue on disk: the vectors of documents that will be offered, computed before anybody asks.

One file a base encoder, replaced as a whole; what a load has computed so far lies in shards beside it, and a load that
was stopped goes on from there. It is a cache that can be made again, and holds no text: documents by their keys.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from store.errors import CorruptVersionError
from store.registry.files.durable import make_folder, replace
from store.student.encoder import Encoder, FloatArray
from store.student.rank.vectors import sentence_vectors
from store.tasks.rank import document_key

_SHARD: Final = 1024
_KEY_BYTES: Final = 16
_KEYS: Final = "keys"
_VECTORS: Final = "vectors"
_ABOUT: Final = "about"

Seen = Callable[[int, int], None]  # documents done, documents


class Primed(Protocol):
    """A cache that takes vectors which were computed before."""

    @property
    def encoder(self) -> Encoder:
        """Whose vectors they are."""

    @property
    def most(self) -> int:
        """How many it can hold."""

    def prime(self, keys: Sequence[str], vectors: FloatArray) -> None:
        """Hold them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What one file says of itself."""

    base: str  # fingerprint of the encoder
    encoder: str  # its name, for a person
    documents: int
    made_s: float  # Unix seconds
    size_bytes: int


class Catalogue:
    """The files of one lane."""

    def __init__(self, folder: Path) -> None:
        """Use the files in `folder`, which need not be there."""
        self._folder = folder

    def path(self, encoder: Encoder) -> Path:
        """The file of a base."""
        return self._folder / f"{encoder.fingerprint[:32]}.safetensors"

    def load(self, documents: Sequence[str], encoder: Encoder, *, name: str, now_s: float, seen: Seen) -> Held:
        """Put these redacted documents in the place of those before; what was computed for a base is not again.

        Args:
            documents: each once or more often.
            encoder: computes their vectors.
            name: of the encoder, for a person.
            now_s: Unix seconds.
            seen: told of (documents computed, documents to compute) after each shard.

        Raises:
            OSError: it could not be written; the catalogue that was there is as it was.
        """
        path = self.path(encoder)
        partial = path.with_suffix(".partial")
        texts = {document_key(text): text for text in documents}
        known: dict[str, FloatArray] = {}
        for place in (path, *sorted(partial.glob("*.safetensors"))):
            known |= {key: vector for key, vector in _read(place, encoder) if key in texts}
        missing = [key for key in texts if key not in known]
        make_folder(partial, mode=0o700)
        seen(0, len(missing))
        for start in range(0, len(missing), _SHARD):
            keys = missing[start : start + _SHARD]
            vectors = sentence_vectors(encoder, [texts[key] for key in keys])
            known |= dict(zip(keys, vectors, strict=True))
            replace(partial / f"{keys[0]}.safetensors", _packed(keys, vectors, encoder, name, now_s))
            seen(start + len(keys), len(missing))
        kept = list(texts)
        replace(path, _packed(kept, np.stack([known[key] for key in kept]), encoder, name, now_s))
        for shard in partial.glob("*"):
            shard.unlink()
        partial.rmdir()
        return _held(path)

    def held(self) -> list[Held]:
        """What every file says of itself, the newest first; one that cannot be read is left out."""
        found = []
        for path in self._folder.glob("*.safetensors"):
            try:
                found.append(_held(path))
            except CorruptVersionError:
                continue
        return sorted(found, key=lambda one: -one.made_s)


class Priming:
    """Keeps caches as the catalogue has it: primes one when it is new, and again when the file has changed."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Nothing is read before the first `look`."""
        self._catalogue = catalogue
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def look(self, cache: Primed, *, fresh: bool = False) -> int:
        """Prime a cache if its base's file has changed since the last time; how many vectors it took.

        Args:
            cache: whose encoder is the file's; it never takes more than it can hold, the first of the catalogue.
            fresh: it holds nothing yet.

        Raises:
            CorruptVersionError: the file is not whole; `understudy catalogue load` makes it anew.
        """
        path, mark = self._catalogue.path(cache.encoder), self._mark(cache)
        if mark is None or (not fresh and self._seen.get(path) == mark):
            return 0
        self._seen[path] = mark  # one that is not whole is read once
        rows = _tensors(path, cache.encoder)
        keys, vectors = rows[0][: cache.most], rows[1][: cache.most]
        cache.prime(keys, vectors)
        return len(keys)

    def changed(self, cache: Primed) -> bool:
        """Whether there is anything that `look` would take."""
        mark = self._mark(cache)
        return mark is not None and self._seen.get(self._catalogue.path(cache.encoder)) != mark

    def _mark(self, cache: Primed) -> tuple[int, int, int] | None:
        try:
            found = self._catalogue.path(cache.encoder).stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def _packed(keys: Sequence[str], vectors: FloatArray, encoder: Encoder, name: str, now_s: float) -> bytes:
    about = {"base": encoder.fingerprint, "encoder": name, "made_s": now_s}
    tensors: dict[str, NDArray[Any]] = {
        _KEYS: np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, _KEY_BYTES),
        _VECTORS: np.ascontiguousarray(vectors, np.float32),
    }
    return safetensors.numpy.save(tensors, {_ABOUT: json.dumps(about)})


def _read(path: Path, encoder: Encoder) -> Iterator[tuple[str, FloatArray]]:
    """The vectors of a file; none where it is not there, damaged, or of another base: they are computed again."""
    try:
        yield from zip(*_tensors(path, encoder), strict=True)
    except CorruptVersionError:
        return


def _tensors(path: Path, encoder: Encoder) -> tuple[list[str], FloatArray]:
    try:
        with safe_open(path, framework="np") as file:
            base = json.loads(file.metadata()[_ABOUT])["base"]
            keys: NDArray[np.uint8] = file.get_tensor(_KEYS)
            vectors: FloatArray = file.get_tensor(_VECTORS)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        message = f"{path.name} is no catalogue, or not whole: `understudy catalogue load` makes it anew"
        raise CorruptVersionError(message) from error
    fits = keys.shape == (len(vectors), _KEY_BYTES) and vectors.shape[1:] == (encoder.hidden_size,)
    if base != encoder.fingerprint or not fits or not np.isfinite(vectors).all():
        message = f"{path.name} is of another encoder, or damaged: `understudy catalogue load` makes it anew"
        raise CorruptVersionError(message)
    return [bytes(row).hex() for row in keys], vectors


def _held(path: Path) -> Held:
    try:
        with safe_open(path, framework="np") as file:
            about: Mapping[str, str | float] = json.loads(file.metadata()[_ABOUT])
            documents = file.get_slice(_KEYS).get_shape()[0]
        return Held(
            base=str(about["base"]),
            encoder=str(about["encoder"]),
            documents=documents,
            made_s=float(about["made_s"]),
            size_bytes=path.stat().st_size,
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        message = f"{path.name} is no catalogue, or not whole"
        raise CorruptVersionError(message) from error
