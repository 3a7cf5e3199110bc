"""Fit the fast member: logistic regression and shrunk linear discriminants on kept features.

Both are linear and convex or closed-form, so the same rows give the same heads.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from store.student.encoder import FloatArray
from store.student.heads import Heads, lda_feature_size

INVERSE_PENALTIES: Final = (1.0, 3.0, 10.0, 30.0)
_SHRINKAGE: Final = 0.6
_LDA_SCALE: Final = 0.5  # discriminants are overconfident: halved logits have the lower log loss
_FOLDS: Final = 3
_MAX_ITERATIONS: Final = 300
_ABSENT_LOGIT: Final = -30.0  # of a label without rows: it keeps its place and is never chosen


def fit_heads(
    features: FloatArray, targets: FloatArray, *, weights: FloatArray, hidden_size: int, c: float, warm: Heads | None
) -> Heads:
    """Fit both linear classifiers.

    Args:
        features: [n, features].
        targets: [n, labels], rows sum to 1; one-hot for a plain label.
        weights: [n], above 0; only their ratios count.
        hidden_size: of the encoder: the discriminants read its last two layers.
        c: inverse penalty of the logistic regression, as scikit-learn's.
        warm: earlier heads over a prefix of the labels: where the regression starts, not what it ends at.
    """
    present = np.flatnonzero(targets.sum(axis=0) > 0.0)
    rows, soft = torch.from_numpy(features), torch.from_numpy(targets[:, present])
    share = torch.from_numpy((weights / weights.mean()).astype(np.float32))
    start = _start(warm, present, targets.shape[1], rows.shape[1])
    lr_weight, lr_bias = fit_logistic(rows, soft, share, c=c, start=start)
    size = lda_feature_size(features.shape[1], hidden_size)
    lda_weight, lda_bias = _fit_lda(rows[:, -size:], soft, share)
    index = torch.from_numpy(present)
    return Heads(
        lr_weight=_placed(lr_weight, index, targets.shape[1], 0.0),
        lr_bias=_placed(lr_bias, index, targets.shape[1], _ABSENT_LOGIT),
        lda_weight=_placed(lda_weight, index, targets.shape[1], 0.0),
        lda_bias=_placed(lda_bias, index, targets.shape[1], _ABSENT_LOGIT),
    )


def choose_c(features: FloatArray, targets: FloatArray, *, weights: FloatArray, hidden_size: int, seed: int) -> float:
    """The inverse penalty with the lowest out-of-fold log loss; the strongest penalty of equals."""
    losses = []
    for c in INVERSE_PENALTIES:
        probs = out_of_fold(features, targets, weights=weights, hidden_size=hidden_size, c=c, seed=seed)
        logs = (targets * np.log(np.clip(probs, 1e-12, 1.0))).sum(axis=1)
        losses.append(-float(np.average(logs, weights=weights)))
    return INVERSE_PENALTIES[int(np.argmin(losses))]


def out_of_fold(
    features: FloatArray, targets: FloatArray, *, weights: FloatArray, hidden_size: int, c: float, seed: int
) -> FloatArray:
    """Each row's probabilities from heads that did not see it (3 folds): [n, labels]."""
    folds = np.random.default_rng(seed).permutation(len(features)) % _FOLDS
    probs = np.empty_like(targets)
    for fold in range(_FOLDS):
        seen, held = folds != fold, folds == fold
        heads = fit_heads(features[seen], targets[seen], weights=weights[seen], hidden_size=hidden_size, c=c, warm=None)
        probs[held] = heads.probs(features[held])
    return probs


def fit_logistic(
    rows: Tensor, targets: Tensor, weights: Tensor, *, c: float, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The (W, b) that minimise sum_i w_i CE(t_i, softmax(W x_i + b)) + |W|^2 / (2 c); b is not penalised.

    Args:
        rows: [n, features].
        targets: [n, labels].
        weights: [n].
        c: inverse penalty.
        start: an earlier (W, b), to be there sooner.

    Returns:
        W [labels, features] and b [labels].
    """
    centre = rows.mean(dim=0)  # only speeds the search up: the bias takes the shift back
    centred = rows - centre
    scale = 1.0 / (c * float(weights.sum()))
    goal = targets * (weights / weights.sum()).unsqueeze(1)
    weight, bias = torch.zeros(targets.shape[1], rows.shape[1]), torch.zeros(targets.shape[1])
    if start is not None:
        weight, bias = start[0].clone(), start[1] + start[0] @ centre
    # torch's own search: scipy's brings a second BLAS, whose threads made fits ten times slower on a busy machine
    search = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        logits = centred @ weight.T + bias
        slope = torch.softmax(logits, dim=-1) * goal.sum(dim=1, keepdim=True) - goal
        weight.grad = slope.T @ centred + scale * weight
        bias.grad = slope.sum(dim=0)
        return scale / 2 * (weight**2).sum() - (goal * torch.log_softmax(logits, dim=-1)).sum()

    search.step(loss)  # type: ignore[no-untyped-call]
    return weight, bias - weight @ centre


def _fit_lda(rows: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Linear discriminants with the within-class covariance shrunk to its mean variance (Friedman 1989).

    Sigma = (1 - s) S + s tr(S)/d I; logits = scale * (mu_k Sigma^-1 x - mu_k Sigma^-1 mu_k / 2 + log prior_k).
    """
    centre = weights @ rows / weights.sum()
    centred = rows - centre
    share = targets * weights.unsqueeze(1)
    counts = share.sum(dim=0)
    means = (share.T @ centred / counts.unsqueeze(1)).double()
    scatter = ((centred * share.sum(dim=1, keepdim=True)).T @ centred).double()
    within = (scatter - means.T @ (means * counts.double().unsqueeze(1))) / counts.double().sum()
    variance = within.diagonal().mean().clamp(min=1e-12)
    shrunk = (1.0 - _SHRINKAGE) * within + _SHRINKAGE * variance * torch.eye(len(within), dtype=torch.float64)
    weight = torch.linalg.solve(shrunk, means.T).T
    prior = (counts.double() / counts.double().sum()).log()
    bias = prior - 0.5 * (weight * means).sum(dim=1) - weight @ centre.double()
    return (_LDA_SCALE * weight).float().contiguous(), (_LDA_SCALE * bias).float()


def _start(
    warm: Heads | None, present: Sequence[int] | np.ndarray, labels: int, size: int
) -> tuple[Tensor, Tensor] | None:
    """The earlier regression on the labels that have rows now; new labels start at zero."""
    if warm is None or warm.lr_weight.shape[1] != size:
        return None
    weight, bias = torch.zeros(labels, size), torch.zeros(labels)
    weight[: len(warm.lr_bias)], bias[: len(warm.lr_bias)] = warm.lr_weight, warm.lr_bias
    index = torch.as_tensor(np.asarray(present))
    return weight[index], bias[index].clamp(min=_ABSENT_LOGIT / 2)


def _placed(values: Tensor, index: Tensor, labels: int, absent: float) -> Tensor:
    """Rows of the labels that were fitted, in a tensor over all labels."""
    result = torch.full((labels, *values.shape[1:]), absent)
    result[index] = values
    return result
