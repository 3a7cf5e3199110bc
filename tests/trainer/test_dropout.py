"""Dropout by random bytes drops the share it says, scales the rest up, and passes gradients where it kept."""

import numpy as np
import pytest
import torch

from trainer.learn.dropout import ByteDropout

PRECISIONS = pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])


def dropout(probability: float = 0.25, seed: int = 0) -> ByteDropout:
    return ByteDropout(probability, np.random.SFC64(seed))


@PRECISIONS
def test_it_drops_its_share_and_keeps_the_mean(precision: torch.dtype) -> None:
    states = torch.full((400, 301), 3.0, dtype=precision)
    dropped = dropout()(states)
    assert dropped.dtype == precision
    assert set(dropped.unique().tolist()) == {0.0, 4.0}
    assert (dropped == 0.0).float().mean() == pytest.approx(0.25, abs=0.005)  # 4 standard deviations
    shares = (dropped == 0.0).float().mean(dim=0)
    assert shares.std() == pytest.approx((0.25 * 0.75 / 400) ** 0.5, rel=0.25)  # columns are no different


def test_what_is_dropped_has_no_gradient() -> None:
    states = torch.ones(50, 7, requires_grad=True)
    dropped = dropout()(states)
    dropped.sum().backward()
    assert states.grad is not None
    assert torch.equal(states.grad, dropped)


def test_each_call_draws_anew_and_the_same_seed_alike() -> None:
    one, other = dropout(), dropout()
    states = torch.ones(20, 20)
    first, second = one(states), one(states)
    assert not torch.equal(first, second)
    assert torch.equal(other(states), first)
    assert not torch.equal(dropout(seed=1)(states), first)


def test_it_drops_nothing_while_a_model_answers() -> None:
    states = torch.ones(20, 20)
    assert dropout().eval()(states) is states
    assert dropout(0.0)(states) is states
