"""Fit the fast member: shrunk linear discriminants on kept features.

A closed form, so the same rows give the same head.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from store.student.encoder import FloatArray
from store.student.head import Head

_SHRINKAGE: Final = 0.6
_SCALE: Final = 0.5  # discriminants are overconfident: halved logits have the lower log loss
_ABSENT_LOGIT: Final = -30.0  # of a label without rows: it keeps its place and is never chosen


def fit_head(features: FloatArray, targets: FloatArray, *, weights: FloatArray) -> Head:
    """Fit linear discriminants with the within-class covariance shrunk to its mean variance (Friedman 1989).

    Sigma = (1 - s) S + s tr(S)/d I; logits = scale * (mu_k Sigma^-1 x - mu_k Sigma^-1 mu_k / 2 + log prior_k).

    Args:
        features: [n, features].
        targets: [n, labels], rows sum to 1; one-hot for a plain label.
        weights: [n], above 0; only their ratios count.
    """
    present = np.flatnonzero(targets.sum(axis=0) > 0.0)
    rows, shares = torch.from_numpy(features), torch.from_numpy(weights / weights.mean())
    centre = shares @ rows / shares.sum()
    centred = rows - centre
    share = torch.from_numpy(targets[:, present]) * shares.unsqueeze(1)
    counts = share.sum(dim=0).double()
    means = (share.T @ centred).double() / counts.unsqueeze(1)
    scatter = ((centred * share.sum(dim=1, keepdim=True)).T @ centred).double()
    within = (scatter - means.T @ (means * counts.unsqueeze(1))) / counts.sum()
    variance = within.diagonal().mean().clamp(min=1e-12)
    shrunk = (1.0 - _SHRINKAGE) * within + _SHRINKAGE * variance * torch.eye(len(within), dtype=torch.float64)
    weight = torch.linalg.solve(shrunk, means.T).T
    bias = (counts / counts.sum()).log() - 0.5 * (weight * means).sum(dim=1) - weight @ centre.double()
    index = torch.from_numpy(present)
    return Head(
        weight=_placed(_SCALE * weight, index, targets.shape[1], 0.0),
        bias=_placed(_SCALE * bias, index, targets.shape[1], _ABSENT_LOGIT),
    )


def _placed(values: Tensor, index: Tensor, labels: int, absent: float) -> Tensor:
    """Rows of the labels that were fitted, in a float32 tensor over all labels."""
    result = torch.full((labels, *values.shape[1:]), absent)
    result[index] = values.float()
    return result
