"""A linear probe: logistic regression on pooled states, where the fine-tuned member starts (Kumar et al. 2022)."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from store.student.encoder import FloatArray

_INVERSE_PENALTY: Final = 10.0
_MAX_ITERATIONS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A linear classifier on pooled states."""

    weight: Tensor  # [labels, hidden]
    bias: Tensor  # [labels]


def probe(states: FloatArray, targets: FloatArray, weights: FloatArray, *, c: float = _INVERSE_PENALTY) -> Probe:
    """The (W, b) that minimise sum_i w_i CE(t_i, softmax(W x_i + b)) + |W|^2 / (2 c), where b is not penalised.

    Args:
        states: [n, hidden].
        targets: [n, labels], rows sum to 1.
        weights: [n], above 0; only their ratios count: they are scaled to a mean of 1.
        c: inverse penalty, as scikit-learn's.
    """
    rows = torch.from_numpy(np.ascontiguousarray(states))
    centre = rows.mean(dim=0)  # only speeds the search up: the bias takes the shift back
    centred = rows - centre
    scale = 1.0 / (c * len(rows))
    goal = torch.from_numpy(targets) * torch.from_numpy(weights / weights.sum()).unsqueeze(1)
    weight, bias = torch.zeros(goal.shape[1], rows.shape[1]), torch.zeros(goal.shape[1])
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
    return Probe(weight=weight, bias=bias - weight @ centre)
