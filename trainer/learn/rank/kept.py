"""The lane's numbers on disk: vectors of texts and, on a cross-encoder, its outputs for pairs of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import numpy as np

from store.event import RankInput
from store.student.encoder import Encoder, FloatArray
from store.student.rank.bases import Matched, pair_key
from store.student.rank.cross import CrossEncoder, Pair
from store.tasks.rank import document_key
from trainer.learn.features import SENTENCES, BaseEncoder, FeatureCache, Numbers, Telling
from trainer.learn.recipe import Features
from trainer.work import Tell

PAIRS: Final = Numbers(
    of=lambda encoder, pairs: encoder.outputs(pairs)[:, None],
    size=lambda _: 1,
)


@runtime_checkable
class PairFeatures(Protocol):
    """Where a cross-encoder's outputs come from: computed once, whoever asks."""

    def pairs(self, encoder: CrossEncoder, keys: Sequence[str], pairs: Sequence[Pair]) -> FloatArray:
        """[n], in the order of the keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLists:
    """A lane's numbers by the texts' keys. Satisfies `trainer.learn.recipe.Features` and `PairFeatures`."""

    sentences: Telling
    outputs: Telling

    @staticmethod
    def of(folder: Path, tell: Tell) -> "KeptLists":
        """In a folder of the lane's own."""
        return KeptLists(
            sentences=Telling(FeatureCache.of(folder / "sentences", SENTENCES), tell),
            outputs=Telling(FeatureCache.of(folder / "pairs", PAIRS), tell),
        )

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[str]) -> FloatArray:
        """See `trainer.learn.recipe.Features`."""
        return self.sentences.features(encoder, item_ids, texts)

    def pairs(self, encoder: CrossEncoder, keys: Sequence[str], pairs: Sequence[Pair]) -> FloatArray:
        """See `PairFeatures`."""
        return self.outputs.features(encoder, keys, pairs)[:, 0]


def matched(lists: Sequence[RankInput], base: BaseEncoder, features: Features) -> list[Matched]:
    """What the base makes of some lists, from what is kept.

    Raises:
        TypeError: the base is a cross-encoder, and nobody keeps its outputs.
    """
    if isinstance(base.encoder, CrossEncoder):
        return _crossed(lists, base.encoder, features)
    texts = {document_key(text): text for one in lists for text in (one.query, *one.documents)}
    found = features.features(base.encoder, list(texts), list(texts.values()))
    place = {key: number for number, key in enumerate(texts)}
    made = []
    for one in lists:
        keys = tuple(document_key(text) for text in one.documents)
        vectors = found[[place[key] for key in keys]]
        made.append(Matched.of_vectors(found[place[document_key(one.query)]], vectors, keys))
    return made


def _crossed(lists: Sequence[RankInput], encoder: CrossEncoder, features: Features) -> list[Matched]:
    if not isinstance(features, PairFeatures):
        message = f"{type(features).__name__} keeps no outputs of a cross-encoder"
        raise TypeError(message)
    queries = {document_key(one.query): one.query for one in lists}
    asked = dict(zip(queries, features.features(encoder, list(queries), list(queries.values())), strict=True))
    pairs = {pair_key(one.query, text): (one.query, text) for one in lists for text in one.documents}
    outputs = dict(zip(pairs, features.pairs(encoder, list(pairs), list(pairs.values())).tolist(), strict=True))
    return [
        Matched(
            query=asked[document_key(one.query)],
            similarity=np.array([outputs[pair_key(one.query, text)] for text in one.documents], np.float32),
            keys=tuple(map(document_key, one.documents)),
        )
        for one in lists
    ]
