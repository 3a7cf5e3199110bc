"""The losses of a chatting student, against plain formulas in float64 and finite differences."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.learn.chat.training import losses
from trainer.learn.chat.training.losses import ABSENT, Heard, answer_loss, shares

HIDDEN, VOCABULARY = 6, 23


def plain(  # the formulas of the module, by autograd
    states: Tensor, head: Tensor, heard: Heard, text: Tensor, distribution: Tensor, softcap: float | None = None
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(states)):
        logits = states[row].double() @ head.double().T
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        logq = logits - torch.logsumexp(logits, 0)
        total = total - text[row] * logq[heard.ids[row, 0]]
        if distribution[row] == 0:
            continue
        given: dict[int, float] = {}
        for one, logprob in zip(heard.ids[row].tolist(), heard.logprobs[row].double().tolist(), strict=True):
            if one != ABSENT:
                given.setdefault(one, float(np.exp(logprob)))
        mass = max(1.0, sum(given.values()))
        kl = torch.zeros((), dtype=torch.float64)
        for one, p in given.items():
            kl = kl + (p / mass) * (np.log(p / mass) - logq[one])
        off = torch.tensor([place for place in range(len(head)) if place not in given])
        tail = 1.0 - sum(given.values()) / mass
        if tail > 0 and len(off):
            kl = kl + tail * (np.log(tail) - torch.logsumexp(logq[off], 0))
        total = total + distribution[row] * kl
    return total


def example(rows: int = 7, k: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Heard]:
    rng = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, HIDDEN, generator=rng)
    head = torch.randn(VOCABULARY, HIDDEN, generator=rng)
    said = torch.randn(rows, VOCABULARY, generator=rng).log_softmax(-1)
    ids = torch.stack([torch.randperm(VOCABULARY, generator=rng)[:k] for _ in range(rows)])
    return states, head, Heard(ids=ids, logprobs=said.gather(1, ids))


def number(loss: Tensor) -> float:
    return float(loss.detach())


def gradient_of(states: Tensor) -> Tensor:
    assert states.grad is not None
    return states.grad


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return [one.double() for one in torch.autograd.grad(loss, of)]


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunk_rows", [1, 3, 1000])
def test_loss_and_gradients_are_those_of_the_formulas(
    softcap: float | None, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_CHUNK_NUMBERS", chunk_rows * VOCABULARY)
    states, head, heard = example()
    heard.ids[2, 2:], heard.logprobs[2, 2:] = ABSENT, -torch.inf  # fewer alternatives than elsewhere
    heard.ids[3, 3] = heard.ids[3, 0]  # the written token named again
    text = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 2.0, 0.0])
    distribution = torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0, 3.0, 0.25])
    states.requires_grad_()
    head.requires_grad_()
    ours = answer_loss(states, head, heard, text=text, distribution=distribution, softcap=softcap)
    theirs = plain(states, head, heard, text, distribution, softcap)
    assert number(ours) == pytest.approx(number(theirs), rel=1e-5)
    for mine, other in zip(gradients(ours, states, head), gradients(theirs, states, head), strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_what_finite_differences_say() -> None:
    states, head, heard = example(rows=3)
    text, distribution = torch.full((3,), 0.5), torch.ones(3)
    states.requires_grad_()
    (found,) = gradients(answer_loss(states, head, heard, text=text, distribution=distribution), states)
    step = 1e-3
    for row, unit in ((0, 0), (1, 3), (2, 5)):
        moved = [states.detach().double().clone() for _ in range(2)]
        moved[0][row, unit] += step
        moved[1][row, unit] -= step
        up, down = (plain(one, head, heard, text=text, distribution=distribution) for one in moved)
        assert float(found[row, unit]) == pytest.approx(float(up - down) / (2 * step), rel=1e-3, abs=1e-5)


def test_a_student_that_says_what_the_teacher_says_loses_nothing_and_does_not_move() -> None:
    states, head, _ = example()
    logq = (states @ head.T).log_softmax(-1)
    best = logq.topk(4).indices
    states.requires_grad_()
    loss = answer_loss(
        states, head, Heard(ids=best, logprobs=logq.gather(1, best)), text=torch.zeros(7), distribution=torch.ones(7)
    )
    assert number(loss) == pytest.approx(0.0, abs=1e-5)
    assert float(gradients(loss, states)[0].abs().max()) < 1e-5


def test_a_student_that_is_certain_of_the_text_loses_nothing_and_one_that_is_not_does() -> None:
    head = torch.eye(VOCABULARY)
    written = torch.arange(5)
    for certainty, is_zero in ((200.0, True), (3.0, False)):
        states = (certainty * head[written]).requires_grad_()
        loss = answer_loss(states, head, Heard.written(written), text=torch.ones(5), distribution=torch.zeros(5))
        assert (number(loss) == 0.0) == is_zero
        assert (float(gradients(loss, states)[0].abs().max()) < 1e-6) == is_zero


def test_the_written_token_is_the_one_at_its_place_and_not_its_neighbour() -> None:
    """Off by one, each state would be taught what another one is to say."""
    states, head, heard = example()
    distribution = torch.zeros(7)
    for place in range(7):
        text = torch.zeros(7)
        text[place] = 1.0
        states.requires_grad_()
        loss = answer_loss(states, head, heard, text=text, distribution=distribution)
        logq = (states.detach().double() @ head.double().T).log_softmax(-1)
        assert number(loss) == pytest.approx(-float(logq[place, heard.ids[place, 0]]), rel=1e-5)
        moved = gradients(loss, states)[0].abs().sum(-1)
        assert [row for row in range(7) if moved[row] > 0] == [place]


def test_mass_that_rounding_brings_above_one_is_scaled_back() -> None:
    states, head, heard = example(rows=2, k=2)
    certain = Heard(ids=heard.ids, logprobs=torch.log(torch.tensor([[0.6004, 0.4002], [0.9, 0.1]])))
    states.requires_grad_()
    text, distribution = torch.zeros(2), torch.ones(2)
    loss = answer_loss(states, head, certain, text=text, distribution=distribution)
    assert number(loss) == pytest.approx(number(plain(states, head, certain, text, distribution)), rel=1e-5)
    (found,) = gradients(loss, states)
    assert torch.isfinite(found).all()


def test_a_tail_far_below_the_rest_has_a_finite_loss_and_a_gradient() -> None:
    """1 - sum(q) would be 0 in float32, and its logarithm -inf."""
    head = torch.eye(5)
    states = torch.tensor([[150.0, 149.0, 0.0, 1.0, 0.5]], requires_grad=True)
    heard = Heard(ids=torch.tensor([[0, 1]]), logprobs=torch.log(torch.tensor([[0.5, 0.25]])))
    text, distribution = torch.zeros(1), torch.ones(1)
    loss = answer_loss(states, head, heard, text=text, distribution=distribution)
    assert number(loss) == pytest.approx(
        number(plain(states, head, heard, text=text, distribution=distribution)), rel=1e-5
    )
    (found,) = gradients(loss, states)
    (other,) = gradients(plain(states, head, heard, text=text, distribution=distribution), states)
    assert torch.allclose(found, other, atol=1e-6)
    assert float(found[0, 2:].sum()) == pytest.approx(-0.25, abs=1e-5)


def test_alternatives_that_are_the_whole_vocabulary_leave_no_tail() -> None:
    states, head, _ = example(rows=2)
    ids = torch.stack([torch.randperm(VOCABULARY) for _ in range(2)])
    heard = Heard(ids=ids, logprobs=torch.full((2, VOCABULARY), 0.9 / VOCABULARY).log())
    states.requires_grad_()
    loss = answer_loss(states, head, heard, text=torch.zeros(2), distribution=torch.ones(2))
    (found,) = gradients(loss, states)
    logits = states.detach().double() @ head.double().T
    goal = torch.full((2, VOCABULARY), 1.0 / VOCABULARY).double()
    assert torch.allclose(found, (logits.softmax(-1) - goal) @ head.double(), atol=1e-5)
    assert number(loss) == pytest.approx(float((goal * (goal.log() - logits.log_softmax(-1))).sum()), rel=1e-4)


@pytest.mark.parametrize("parts", [[8], [4, 4], [2, 2, 2, 2], [1] * 8, [5, 3]])
def test_a_step_in_parts_or_on_ranks_has_the_gradient_of_the_whole_step(parts: list[int]) -> None:
    """Rows of unlike lengths, some with the teacher's distribution: each loss is a mean over all its tokens."""
    lengths, distilled = [1, 9, 2, 7, 3, 3, 12, 1], [True, False, False, True, True, False, False, True]
    states, head, heard = example(rows=sum(lengths))
    states.requires_grad_()
    text = torch.ones(sum(lengths))
    distribution = torch.cat([torch.full((n,), float(is_told)) for n, is_told in zip(lengths, distilled, strict=True)])
    totals = {"text_total": float(text.sum()), "distribution_total": float(distribution.sum())}

    def mean_by_kind() -> Tensor:
        none = torch.zeros_like(text)
        return plain(states, head, heard, text, none) / text.sum() + (
            plain(states, head, heard, none, distribution) / distribution.sum()
        )

    (whole,) = gradients(mean_by_kind(), states)
    states.grad = None
    row = token = 0
    for part in parts:
        many = sum(lengths[row : row + part])
        here = slice(token, token + many)
        own_text, own_distribution = shares(text[here], distribution[here], **totals)
        own = Heard(ids=heard.ids[here], logprobs=heard.logprobs[here])
        loss = answer_loss(states[here], head, own, text=own_text, distribution=own_distribution)
        loss.backward()  # type: ignore[no-untyped-call]
        row, token = row + part, token + many
    assert torch.allclose(gradient_of(states).double(), whole, rtol=1e-4, atol=1e-6)


def test_a_step_without_a_token_to_learn_moves_nothing() -> None:
    states, head, heard = example()
    states.requires_grad_()
    text, distribution = shares(torch.zeros(7), torch.zeros(7), text_total=0.0, distribution_total=0.0)
    loss = answer_loss(states, head, heard, text=text, distribution=distribution)
    assert number(loss) == 0.0
    assert torch.equal(torch.autograd.grad(loss, states)[0], torch.zeros_like(states))


def test_the_softmax_is_computed_in_float32_whatever_the_weights_are() -> None:
    states, head, heard = (one.bfloat16() if isinstance(one, Tensor) else one for one in example(rows=64))
    assert isinstance(states, Tensor)
    assert isinstance(head, Tensor)
    assert isinstance(heard, Heard)
    logits = (states @ head.T).double()  # what bf16 gives
    written = logits.log_softmax(-1).gather(1, heard.ids[:, :1]).sum()
    loss = answer_loss(states, head, heard, text=torch.ones(64), distribution=torch.zeros(64))
    assert loss.dtype == torch.float32
    assert number(loss) == pytest.approx(-float(written), rel=1e-5)


def test_an_id_beyond_the_vocabulary_is_refused_and_padding_of_it_is_not() -> None:
    states, head, heard = example()
    text, distribution = torch.ones(7), torch.ones(7)
    longer = torch.cat([head, torch.zeros(5, HIDDEN)])  # a vocabulary padded to a round number
    assert torch.isfinite(answer_loss(states, longer, heard, text=text, distribution=distribution))
    heard.ids[0, 1] = VOCABULARY
    with pytest.raises(ValueError, match="none of the 23"):
        answer_loss(states, head, heard, text=text, distribution=distribution)
