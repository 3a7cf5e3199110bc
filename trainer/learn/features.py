"""The base encoder of a lane, and its features of the kept items: computed once, kept on disk.

The cache is only a cache: a shard that is not what its name says is thrown away and computed again.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from store.errors import CorruptVersionError, SettingsError, SwapRefusedError
from store.registry.manifest import BaseModel
from store.student.encoder import DEFAULT_MAX_TOKENS, Encoder, FloatArray, Precision
from store.student.folder import ENCODER_FILES, MINILM, WEIGHTS_NAME, bundled_encoder, find_encoder
from store.student.rank.vectors import sentence_vectors
from trainer.learn.aside import put, sweep
from trainer.work import Tell

_SHARD_ROWS: Final = 512
_TENSOR: Final = "features"
_IDS: Final = "item_ids"
_OPTIONAL_FILES: Final = ("tokenizer_config.json", "special_tokens_map.json")  # nothing here reads them


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseEncoder:
    """The encoder that students start from, and where its files are."""

    name: str
    directory: Path
    sha256: str  # of its weights file
    encoder: Encoder

    @staticmethod
    def open(
        setting: str | Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        max_tokens: int = DEFAULT_MAX_TOKENS,
        load: Callable[..., Encoder] = Encoder.load,
    ) -> "BaseEncoder":
        """Load the encoder that a setting names.

        Args:
            setting: `minilm`, or a folder.
            device: `cpu`, `cuda` or `auto`.
            precision: of the weights.
            max_tokens: the longest input.
            load: as a task's students stand on it; as `Encoder.load`.

        Raises:
            SettingsError: it is not there, or not an encoder, or none that such students can stand on.
        """
        directory = find_encoder(setting, "trainer.encoder")
        try:
            encoder = load(directory, device=device, precision=precision, max_tokens=max_tokens)
        except (CorruptVersionError, SwapRefusedError) as error:
            message = f"trainer.encoder: {directory} is not an encoder: {error}"
            raise SettingsError(message) from error
        sha256 = hashlib.sha256((directory / WEIGHTS_NAME).read_bytes()).hexdigest()
        name = MINILM if directory == bundled_encoder() else directory.name
        return BaseEncoder(name=name, directory=directory, sha256=sha256, encoder=encoder)

    def copy_to(self, folder: Path) -> None:
        """Put its files into a version's folder, and what other tools read beside them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*ENCODER_FILES, *_OPTIONAL_FILES):
            if (self.directory / name).is_file():
                shutil.copyfile(self.directory / name, folder / name)

    @property
    def record(self) -> BaseModel:
        """What the manifest says of it."""
        return BaseModel(name=self.name, sha256=self.sha256, parameters=self.encoder.parameters)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is kept of an input: a text, or whatever else has numbers."""

    of: Callable[[Any, Sequence[Any]], FloatArray]  # [n, size] by encoder and inputs; a function of each input alone
    size: Callable[[Encoder], int]


FEATURES: Final = Numbers(of=lambda encoder, texts: encoder.features(texts), size=lambda encoder: encoder.feature_size)
SENTENCES: Final = Numbers(of=sentence_vectors, size=lambda encoder: encoder.hidden_size)


class FeatureCache:
    """One lane's features by item id, on disk as safetensors shards named by their hash.

    Bounded by what is asked for: rows nobody asked for in the last call go when they outnumber those it did.
    """

    def __init__(self, directory: Path, numbers: Numbers = FEATURES) -> None:
        self._directory = directory
        self._numbers = numbers
        self._fingerprint = ""
        self._rows: dict[str, FloatArray] = {}

    @staticmethod
    @functools.cache
    def of(directory: Path, numbers: Numbers = FEATURES) -> "FeatureCache":
        """The process's one cache of a folder: it forgets what a snapshot no longer holds."""
        return FeatureCache(directory, numbers)

    def features(
        self,
        encoder: Encoder,
        item_ids: Sequence[str],
        texts: Sequence[Any],
        *,
        progress: Callable[[int, int], None] = lambda _done, _new: None,
    ) -> FloatArray:
        """The encoder's features of these items: [n, features]. An item's text never changes, so its id will do.

        Ask for all rows of a snapshot at once: the cache forgets by what one call leaves out.

        Args:
            encoder: whose features.
            item_ids: n ids.
            texts: n redacted texts, or other inputs.
            progress: told of (rows computed, rows to compute) after each shard.
        """
        if self._fingerprint != encoder.fingerprint:
            self._rows = dict(self._read(encoder))
            self._fingerprint = encoder.fingerprint
        new = list({item: i for i, item in enumerate(item_ids) if item not in self._rows}.values())
        for start in range(0, len(new), _SHARD_ROWS):
            shard = new[start : start + _SHARD_ROWS]
            found = self._numbers.of(encoder, [texts[i] for i in shard])
            self._keep([item_ids[i] for i in shard], found)
            progress(start + len(shard), len(new))
        self._forget(set(item_ids))
        if not item_ids:
            return np.empty((0, self._numbers.size(encoder)), dtype=np.float32)
        return np.stack([self._rows[item] for item in item_ids])

    @property
    def _folder(self) -> Path:
        return self._directory / self._fingerprint[:16]

    def _read(self, encoder: Encoder) -> Iterator[tuple[str, FloatArray]]:
        """Every row of every intact shard of this encoder."""
        folder = self._directory / encoder.fingerprint[:16]
        sweep(folder)
        for path in sorted(folder.glob("*.safetensors")):
            shard = _read_shard(path, self._numbers.size(encoder))
            if shard is None:
                path.unlink(missing_ok=True)
                continue
            yield from zip(*shard, strict=True)

    def _keep(self, item_ids: Sequence[str], rows: FloatArray) -> Path:
        """Write a shard, whole or not at all. Returns where it lies."""
        data = safetensors.torch.save({_TENSOR: torch.from_numpy(rows)}, {_IDS: json.dumps(list(item_ids))})
        path = self._folder / f"{hashlib.sha256(data).hexdigest()}.safetensors"
        put(path, data)
        self._rows.update(zip(item_ids, rows, strict=True))
        return path

    def _forget(self, wanted: set[str]) -> None:
        """Rewrite the shards once more than half of what they hold is not wanted any more."""
        if len(self._rows) <= 2 * len(wanted):
            return
        kept = {item: row for item, row in self._rows.items() if item in wanted}
        old = set(self._folder.glob("*.safetensors"))
        self._rows = {}
        items = list(kept)
        for start in range(0, len(items), _SHARD_ROWS):
            shard = items[start : start + _SHARD_ROWS]
            old.discard(self._keep(shard, np.stack([kept[item] for item in shard])))  # it may be as it was
        for path in old:
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Telling:
    """The kept features, and how far those that are new have come."""

    cache: FeatureCache
    tell: Tell

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[Any]) -> FloatArray:
        """See `trainer.learn.recipe.Features`."""
        self.tell("embedding", None)
        return self.cache.features(
            encoder, item_ids, texts, progress=lambda done, new: self.tell("embedding", done / max(1, new))
        )


def _read_shard(path: Path, feature_size: int) -> tuple[list[str], FloatArray] | None:
    """A shard's ids and rows; None when it is not what its name says, or another process has just forgotten it."""
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem:
            return None
        with safe_open(path, framework="np") as file:
            item_ids = json.loads(file.metadata()[_IDS])
            rows: FloatArray = file.get_tensor(_TENSOR)
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None
    return (item_ids, rows) if rows.shape == (len(item_ids), feature_size) else None
