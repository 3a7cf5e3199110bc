"""Fit the ranking student's head: ridge regression on what the similarity leaves of the teacher's score within a list.

Closed forms and cross-validation over a few penalties, so the same lists give the same head. Documents that came in
two lists or more have a bias of their own; where nothing repeats and nothing is learned, the similarity is
all there is.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor

from store.student.rank.bases import Matched
from store.student.rank.head import RankHead

Floats = npt.NDArray[np.float64]

_FOLDS: Final = 3
_FEATURE_PENALTIES: Final = (1_000.0, 10_000.0)  # of features with variance 1; beside them: none are used
_ITEM_PENALTIES: Final = (0.3, 1.0, 3.0)  # likewise
_FIRST_ITEM_PENALTY: Final = 1.0
_MOST_ITEMS: Final = 1_024  # with a bias, the most frequent first: the fit is cubic in them
_LEAST_LISTS: Final = 8  # below, the slope alone
_PLAIN_SIGMA: Final = 0.1  # before anything is known
_OFF: Final = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankedList:
    """One question with the teacher's answer to it."""

    matched: Matched  # what the base makes of it
    target: Floats  # [n] the teacher's scores, or `order_scores` of an order
    weight: float = 1.0  # in the fit
    stands_for: float = 1.0  # questions like it: sigma is that of traffic, not of what is paid for

    @property
    def keys(self) -> tuple[str, ...]:
        """Of its documents."""
        return self.matched.keys


@dataclass(frozen=True, slots=True, kw_only=True)
class _Penalties:
    features: float
    items: float


def order_scores(order: Sequence[int], documents: int) -> Floats:
    """Scores for a teacher who only gives an order: normal scores (van der Waerden 1952), sd about 1.

    Args:
        order: places of documents, best first; documents that it leaves out share the places that are left.
        documents: how many were offered.
    """
    quantiles = 1.0 - (np.arange(documents) + 0.5) / documents
    scores = np.full(documents, quantiles[len(order) :].mean() if len(order) < documents else 0.0)
    scores[list(order)] = quantiles[: len(order)]
    return np.asarray(ndtri(scores), np.float64)


def fit_rank_head(lists: Sequence[RankedList], *, features: int) -> RankHead:
    """The head with the least squared error on lists that were left out, of those with these penalties.

    Sigma is from lists that were left out as well: within its own lists a head is always right. Of a document that was
    not seen before it is what is left without any document's bias.

    Args:
        lists: each with two documents or more; shorter ones teach nothing and are left out.
        features: of the base.
    """
    lists = [one for one in lists if len(one.keys) > 1]
    if not lists:
        return untaught(features)
    design = _Design(lists)
    slope = design.slope()
    residual = design.target - slope * design.similarity
    chosen = _Penalties(features=_OFF, items=_OFF)
    if len(lists) >= _LEAST_LISTS:
        chosen = design.choose(residual)
    left = residual - design.out_of_fold(residual, chosen)
    unknown = residual - design.out_of_fold(residual, replace(chosen, items=_OFF))
    weight, biases = design.solve(residual, chosen, np.ones(len(lists), np.bool_))
    return RankHead(
        slope=slope,
        sigma=float(np.sqrt(np.average(left**2, weights=design.traffic))),
        weight=weight.astype(np.float32),
        items={key: float(bias) for key, bias in zip(design.items, biases, strict=True) if bias != 0.0},
        new_sigma=float(np.sqrt(np.average(unknown**2, weights=design.traffic))),
    )


def untaught(features: int) -> RankHead:
    """The base's similarity alone, before there is anything to learn from."""
    return RankHead(slope=1.0, sigma=_PLAIN_SIGMA, weight=np.zeros(features, np.float32), items={})


class _Design:
    """All documents of all lists below one another, each less its list's mean."""

    def __init__(self, lists: Sequence[RankedList]) -> None:
        sizes = [len(one.keys) for one in lists]
        self.list_of = np.repeat(np.arange(len(lists)), sizes)
        self.rows = np.repeat([one.weight / len(one.keys) for one in lists], sizes)  # a list's weight, shared out
        self.rows = self.rows * len(self.rows) / self.rows.sum()
        self.traffic = np.repeat([one.stands_for / len(one.keys) for one in lists], sizes)
        self.target = np.concatenate([_centred(np.asarray(one.target, np.float64)) for one in lists])
        self.similarity = np.concatenate([_centred(one.matched.similarity.astype(np.float64)) for one in lists])
        features = np.concatenate([_centred(one.matched.features) for one in lists])
        self._unit = (float(features.std()) if features.size else 0.0) or 1.0
        counts = Counter(key for one in lists for key in set(one.keys))
        repeated = [key for key, count in counts.most_common(_MOST_ITEMS) if count > 1]
        self.items = sorted(repeated)
        self.features = features.shape[1]
        # torch's arithmetic: numpy's brings threads of its own, which starve whatever runs beside a cycle
        columns = np.concatenate([features / self._unit, self._one_hot(lists)], axis=1).astype(np.float32)
        self._columns = torch.from_numpy(columns)
        self._fold = self._folds(lists)
        self._grams = [self._gram(np.flatnonzero(self._fold[self.list_of] == fold)) for fold in range(_FOLDS)]

    def slope(self) -> float:
        """Of the similarity, by weighted least squares; 1 where it tells nothing, and never below 0."""
        spread = float((self.rows * self.similarity) @ self.similarity)
        return max(0.0, float((self.rows * self.similarity) @ self.target) / spread) if spread > 0.0 else 1.0

    def choose(self, residual: Floats) -> _Penalties:
        """One penalty after the other, so that a handful of solutions is enough."""
        first = _FIRST_ITEM_PENALTY if self.items else _OFF
        penalties = (*_FEATURE_PENALTIES, _OFF) if self.features else (_OFF,)
        features = min(penalties, key=lambda one: self._error(residual, one, first))
        if not self.items:
            return _Penalties(features=features, items=_OFF)
        items = min((*_ITEM_PENALTIES, _OFF), key=lambda one: self._error(residual, features, one))
        return _Penalties(features=features, items=items)

    def out_of_fold(self, residual: Floats, penalties: _Penalties) -> Floats:
        """What heads without a list's fold say of it."""
        said = np.zeros(len(residual))
        for fold in range(_FOLDS):
            held = np.flatnonzero(self._fold[self.list_of] == fold)
            weight, biases = self.solve(residual, penalties, self._fold != fold)
            heads = torch.from_numpy(np.concatenate([weight * self._unit, biases]).astype(np.float32))
            said[held] = (self._columns[torch.from_numpy(held)] @ heads).numpy()
        return said

    def solve(self, residual: Floats, penalties: _Penalties, kept: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """(weights of the features, biases of the items) from the lists that are kept, whole folds of them."""
        width = self._columns.shape[1]
        on = np.concatenate(
            [
                np.full(self.features, penalties.features),
                np.full(width - self.features, penalties.items),
            ]
        )
        used = np.flatnonzero(np.isfinite(on))
        found = np.zeros(width)
        if len(used):
            folds = [fold for fold in range(_FOLDS) if kept[self._fold == fold].any()]
            places, rows = torch.from_numpy(used), torch.from_numpy(np.flatnonzero(kept[self.list_of]))
            gram = torch.stack([self._grams[fold] for fold in folds]).sum(dim=0)[places][:, places]
            gram.diagonal().add_(torch.from_numpy(on[used]))
            goal = torch.from_numpy((self.rows * residual).astype(np.float32))[rows]
            moment = (self._columns[rows].T @ goal)[places].double()
            found[used] = torch.cholesky_solve(moment.unsqueeze(1), torch.linalg.cholesky(gram)).squeeze(1).numpy()
        return found[: self.features] / self._unit, found[self.features :]

    def _error(self, residual: Floats, features: float, items: float) -> float:
        left = residual - self.out_of_fold(residual, _Penalties(features=features, items=items))
        return float((self.rows * left**2).sum())

    def _gram(self, rows: npt.NDArray[np.intp]) -> Tensor:
        part = (
            self._columns[torch.from_numpy(rows)]
            * torch.from_numpy(np.sqrt(self.rows[rows]).astype(np.float32))[:, None]
        )
        return (part.T @ part).double()

    def _one_hot(self, lists: Sequence[RankedList]) -> Floats:
        place = {key: column for column, key in enumerate(self.items)}
        found = np.zeros((len(self.list_of), len(self.items)))
        row = 0
        for one in lists:
            part = found[row : row + len(one.keys)]
            for at, key in enumerate(one.keys):
                if key in place:
                    part[at, place[key]] = 1.0
            part -= part.mean(axis=0)
            row += len(one.keys)
        return found

    @staticmethod
    def _folds(lists: Sequence[RankedList]) -> npt.NDArray[np.intp]:
        """[lists] a fold each; lists with the same query share one."""
        queries: dict[bytes, int] = {}
        return np.array(
            [queries.setdefault(one.matched.query.tobytes(), len(queries)) % _FOLDS for one in lists], np.intp
        )


def _centred(values: npt.NDArray[np.floating]) -> Floats:
    centred: Floats = np.asarray(values - values.mean(axis=0), np.float64)
    return centred
