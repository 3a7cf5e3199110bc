"""Fit the fast member: shrunk linear discriminants on kept features.

Closed forms and a search over a few scales, so the same rows give the same head.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from store.student.encoder import FloatArray
from store.student.head import Head

_SHRINKAGE: Final = 0.6
_SCALES: Final[tuple[float, ...]] = tuple(2.0 ** (-step / 2) for step in range(15))  # 1 to 1/128
_FOLDS: Final = 3
_ABSENT_LOGIT: Final = -30.0  # of a label without rows: it keeps its place and is never chosen


def fit_head(features: FloatArray, targets: FloatArray, *, weights: FloatArray, scale: float) -> Head:
    """Fit linear discriminants with the within-class covariance shrunk to its mean variance (Friedman 1989).

    Sigma = (1 - s) S + s tr(S)/d I; logits = scale * (mu_k Sigma^-1 x - mu_k Sigma^-1 mu_k / 2 + log prior_k), less
    their mean by the prior, which is the same for every x: so the largest is never below 0.

    Args:
        features: [n, features].
        targets: [n, labels], rows sum to 1; one-hot for a plain label.
        weights: [n], above 0; only their ratios count.
        scale: of the logits; `choose_scale` finds it.
    """
    present = np.flatnonzero(targets.sum(axis=0) > 0.0)
    weight, bias = _discriminants(*_tensors(features, targets[:, present], weights))
    index = torch.from_numpy(present)
    return Head(
        weight=_placed(scale * weight, index, targets.shape[1], 0.0),
        bias=_placed(scale * bias, index, targets.shape[1], _ABSENT_LOGIT),
    )


def choose_scale(features: FloatArray, targets: FloatArray, *, weights: FloatArray) -> float:
    """The scale with the lowest out-of-fold log loss; 1 where there is nothing to tell by.

    In their own rows discriminants are sure of everything: with few rows a label, of what they get wrong as well.
    """
    losses = torch.zeros(len(_SCALES), dtype=torch.float64)
    for logits, goal in _out_of_fold(*_tensors(features, targets, weights)):
        losses += torch.stack([-(goal * torch.log_softmax(scale * logits, dim=1)).sum() for scale in _SCALES])
    return _SCALES[int(losses.argmin())]


def _out_of_fold(rows: Tensor, targets: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each fold, logits of its rows from the others, and their weighed targets: [rows, labels known there]."""
    fold = torch.arange(len(rows)) % _FOLDS
    for number in range(_FOLDS):
        seen, held = fold != number, fold == number
        known = targets[seen].sum(dim=0) > 0.0
        if known.any() and held.any():
            weight, bias = _discriminants(rows[seen], targets[seen][:, known], weights[seen])
            goal = targets[held][:, known] * weights[held].unsqueeze(1)
            yield rows[held].double() @ weight.T + bias, goal.double()


def _tensors(features: FloatArray, targets: FloatArray, weights: FloatArray) -> tuple[Tensor, Tensor, Tensor]:
    return torch.from_numpy(features), torch.from_numpy(targets), torch.from_numpy(weights / weights.mean())


def _discriminants(rows: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(W, b) at scale 1, float64; every label has rows, and a row without a target counts for nothing."""
    share = targets * weights.unsqueeze(1)
    of_row = share.sum(dim=1)
    centre = of_row @ rows / of_row.sum()
    centred = rows - centre
    counts = share.sum(dim=0).double()
    means = (share.T @ centred).double() / counts.unsqueeze(1)
    scatter = ((centred * of_row.unsqueeze(1)).T @ centred).double()
    within = (scatter - means.T @ (means * counts.unsqueeze(1))) / counts.sum()
    variance = within.diagonal().mean().clamp(min=1e-12)
    shrunk = (1.0 - _SHRINKAGE) * within + _SHRINKAGE * variance * torch.eye(len(within), dtype=torch.float64)
    weight = torch.linalg.solve(shrunk, means.T).T
    prior = counts / counts.sum()
    bias = prior.log() - 0.5 * (weight * means).sum(dim=1) - weight @ centre.double()
    return weight, bias - prior @ bias


def _placed(values: Tensor, index: Tensor, labels: int, absent: float) -> Tensor:
    """Rows of the labels that were fitted, in a float32 tensor over all labels."""
    result = torch.full((labels, *values.shape[1:]), absent)
    result[index] = values.float()
    return result
