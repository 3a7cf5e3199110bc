"""What is lost on the tokens of an answer, in chunks, so that memory does not grow with tokens times vocabulary.

For a token with the teacher's most likely tokens S (the one that it wrote first) and their probabilities p, the tail
p_t = 1 - sum(p), and the student's softmax q of logits z, q_t its mass off S:

    cross-entropy   -log q[written]                                        dz_j = q_j - [j = written]
    sparse KL       sum_S p log(p / q) + p_t log(p_t / q_t)                dz_j = q_j - p_j                on S
                                                                           dz_j = q_j - p_t q_j / q_t      off S

Both off-support parts are softmax over the logits off S times a number a row, so one exponential of the logits serves
loss and gradient, and q_t comes from the logits off S themselves: 1 - sum(q) has no digits left where q_t is small.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

ABSENT: Final = 0xFFFFFFFF  # id of an alternative that the teacher did not give
_CHUNK_NUMBERS: Final = 1 << 24  # logits at once: 64 MiB
_LEAST: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heard:
    """What a teacher said at n places, whatever the vocabulary."""

    ids: Tensor  # [n, k] int64, the written token first; `ABSENT` where there is no alternative
    logprobs: Tensor  # [n, k]; -inf where there is no alternative, and everywhere where only the text is known

    @staticmethod
    def written(ids: Tensor) -> "Heard":
        """Of a text alone: [n] ids."""
        return Heard(ids=ids[:, None], logprobs=torch.full((len(ids), 1), -torch.inf, device=ids.device))


def answer_loss(
    states: Tensor,
    head: Tensor,
    heard: Heard,
    *,
    text: Tensor,
    distribution: Tensor,
    softcap: float | None = None,
) -> Tensor:
    """Sum over places of text * cross-entropy + distribution * sparse KL: a number in float32; zero weights cost none.

    A place whose `distribution` is above 0 needs the teacher's log-probabilities. Whoever accumulates gradients over
    parts of a step divides both weights by what the *whole* step holds: see `shares`.

    Args:
        states: [n, hidden] that the head reads; the state at a place predicts the token at the next one.
        head: [vocabulary, hidden], of the student's own vocabulary, which may be padded beyond the tokenizer's.
        heard: of the n tokens to predict, in the student's token ids.
        text: [n] weights of the cross-entropy.
        distribution: [n] weights of the sparse KL (Hinton et al. 2015, with all that is not in S as one outcome).
        softcap: c of logits c tanh(z / c), where the student has it (Gemma 2).

    Raises:
        ValueError: an id is none of the vocabulary.
    """
    used = (text != 0) | (distribution != 0)
    if not bool(used.all()):
        states, text, distribution = states[used], text[used], distribution[used]
        heard = Heard(ids=heard.ids[used], logprobs=heard.logprobs[used])
    known = heard.ids != ABSENT
    if bool((heard.ids[known] >= len(head)).any()) or not bool(known[:, :1].all()):
        message = f"a token to learn is none of the {len(head)} of the student's vocabulary"
        raise ValueError(message)
    loss: Tensor = _AnswerLoss.apply(states, head, heard.ids, heard.logprobs, text, distribution, softcap)
    return loss


def shares(
    text: Tensor, distribution: Tensor, *, text_total: float, distribution_total: float
) -> tuple[Tensor, Tensor]:
    """Weights of `answer_loss` for one part of a step, from the weights of its tokens and those of the whole step.

    Each loss is a mean over its own tokens, whichever part of the step, or rank, they lie in: mean over the parts'
    means would weigh a token of a short part more. A step without tokens of a kind has none of that loss.
    """
    return text / max(text_total, _LEAST), distribution / max(distribution_total, _LEAST)


class _AnswerLoss(torch.autograd.Function):
    """The gradient is computed with the loss, chunk by chunk: no logits outlive their chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        head: Tensor,
        ids: Tensor,
        logprobs: Tensor,
        text: Tensor,
        distribution: Tensor,
        softcap: float | None,
    ) -> Tensor:
        """See `answer_loss`."""
        wants_states, wants_head = ctx.needs_input_grad[:2]
        places, absent, p, p_tail = _teacher(ids, logprobs, len(head))
        total = torch.zeros((), dtype=torch.float64, device=states.device)
        of_states = torch.empty_like(states) if wants_states else None
        of_head = torch.zeros_like(head, dtype=torch.float32) if wants_head else None
        step = max(1, _CHUNK_NUMBERS // len(head))
        for start in range(0, len(states), step):
            rows = slice(start, start + step)
            logits = (states[rows] @ head.T).float()
            slope = _cap(logits, softcap) if softcap is not None else None
            total += _chunk(
                logits,
                places[rows],
                absent[rows],
                p[rows],
                p_tail[rows],
                text[rows].float(),
                distribution[rows].float(),
            )
            if slope is not None:
                logits *= slope
            if of_states is not None:
                torch.mm(logits.to(head.dtype), head, out=of_states[rows])
            if of_head is not None:
                of_head += logits.T @ states[rows].float()
        ctx.save_for_backward(of_states, of_head)
        ctx.head_dtype = head.dtype
        return total.float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what was computed with the loss."""
        of_states, of_head = ctx.saved_tensors
        given = gradients[0]
        return (
            of_states * given.to(of_states.dtype) if of_states is not None else None,
            (of_head * given).to(ctx.head_dtype) if of_head is not None else None,
            None,
            None,
            None,
            None,
            None,
        )


def _teacher(ids: Tensor, logprobs: Tensor, vocabulary: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places in the vocabulary [n, k], which of them count for nothing [n, k], p [n, k] and p_t [n].

    An alternative that is absent, or named before, takes the place of the first token, where it changes nothing.
    Rounding may make the mass exceed 1: it is scaled back.
    """
    same = (ids[:, :, None] == ids[:, None, :]).tril(-1).any(dim=-1)
    absent = same | (ids == ABSENT)
    places = torch.where(absent, ids[:, :1], ids)
    p = logprobs.float().exp().masked_fill(absent, 0.0)
    mass = p.sum(dim=-1)
    everything = (~absent).sum(dim=-1) == vocabulary
    p = p / torch.where(everything & (mass > 0), mass, mass.clamp(min=1.0))[:, None]
    tail = (1.0 - p.sum(dim=-1)).clamp(min=0.0)
    return places, absent, p, torch.where(everything, 0.0, tail)


def _chunk(
    logits: Tensor, places: Tensor, absent: Tensor, p: Tensor, p_tail: Tensor, text: Tensor, distribution: Tensor
) -> Tensor:
    """The chunk's loss; what were logits [n, vocabulary] is then their gradient."""
    on = logits.gather(1, places).masked_fill(absent, -torch.inf)
    logits.scatter_(1, places, -torch.inf)
    top = logits.amax(dim=-1).clamp(min=torch.finfo(torch.float32).min)  # S may be all that there is
    mass_off = logits.sub_(top[:, None]).exp_().sum(dim=-1)
    log_off = top + mass_off.log()
    log_all = torch.logsumexp(torch.cat([on, log_off[:, None]], dim=-1), dim=-1)
    log_on, log_off = on - log_all[:, None], log_off - log_all
    found = -text * log_on[:, 0]
    found += distribution * (torch.xlogy(p, p) - torch.where(p > 0, p * log_on, 0.0)).sum(dim=-1)
    found += distribution * (torch.xlogy(p_tail, p_tail) - torch.where(p_tail > 0, p_tail * log_off, 0.0))
    q_off = log_off.exp()
    pull = text * q_off + distribution * (q_off - p_tail)
    logits.mul_((pull / mass_off.clamp(min=torch.finfo(torch.float32).tiny))[:, None])
    moved = (text + distribution)[:, None] * log_on.exp() - distribution[:, None] * p
    moved[:, 0] -= text
    logits.scatter_(1, places, torch.where(absent, moved[:, :1], moved))
    return found.sum(dtype=torch.float64)


def _cap(logits: Tensor, softcap: float) -> Tensor:
    """Cap the logits in place; [n, vocabulary] slopes of the cap."""
    torch.tanh(logits.div_(softcap), out=logits)
    slope = 1.0 - logits.square()
    logits.mul_(softcap)
    return slope
