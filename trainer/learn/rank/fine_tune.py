"""Fine-tune the base's top layers, listwise.

loss = mean over lists of KL(softmax(t / T) || softmax((s + b) / T)), T = T_teacher, s = T_teacher / T_student m(q, d)

t are the teacher's scores, m the base's similarity (a bi-encoder's cosine, a cross-encoder's output), b the documents'
own biases, and T_student is fitted with the weights: with equal
temperatures a student starts miscalibrated. T_teacher is a share of the scores' spread within a list, so that nothing
depends on the teacher's scale.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from store.student.encoder import Encoder
from store.student.rank.head import RankHead
from store.student.rank.ranker import TunedRanker
from trainer.learn.rank.networks import network_on

Floats = npt.NDArray[np.float64]

_BETAS: Final = (0.9, 0.98)
_CLIP: Final = 1.0
_TEMPERATURE_RATIO: Final = 0.28  # of the sd within a list: .05 where that is .18
_SMALLEST_TEMPERATURE: Final = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTuning:
    """How a base is fine-tuned; the defaults were the best of what was tried on 400 lists."""

    epochs: int = 2
    learning_rate: float = 3e-4
    temperature_rate: float = 1e-2  # of log T_student
    weight_decay: float = 0.01
    batch_lists: int = 8
    top_layers: int = 2
    most_documents: int = 32  # of a list, in each epoch: the teacher's best, and others by chance


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextList:
    """One question with the teacher's answer."""

    query: str
    documents: Sequence[str]
    biases: Floats  # [n] of the documents, in the teacher's units
    target: Floats  # [n]
    weight: float


def fine_tune(
    encoder: Encoder,
    lists: Sequence[TextList],
    *,
    head: RankHead,
    start: TunedRanker | None,
    settings: RankTuning,
    seed: int,
    progress: Callable[[int, int], None] = lambda _done, _steps: None,
) -> TunedRanker:
    """Train on all lists and return the member.

    Args:
        encoder: the base; it is not changed.
        lists: each with two documents or more.
        head: the frozen member's, whose slope is where T_student starts.
        start: an earlier member to go on from.
        settings: epochs, rates.
        seed: of the batches and the documents drawn; the same values and thread count give the same member.
        progress: told of (steps done, steps) before each.
    """
    spread = float(np.mean([np.std(one.target) for one in lists]))
    temperature = max(_TEMPERATURE_RATIO * spread, _SMALLEST_TEMPERATURE)
    slope = start.slope if start is not None else head.slope
    network = network_on(
        encoder,
        sorted({text for one in lists for text in (one.query, *one.documents)}),
        top_layers=settings.top_layers,
        start=start.changed if start is not None else None,
    )
    log_slope = torch.tensor(float(np.log(max(slope, temperature))), requires_grad=True)
    masters = network.masters
    optimiser = torch.optim.AdamW(
        [
            {"params": masters, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            {"params": [log_slope], "lr": settings.temperature_rate, "weight_decay": 0.0},
        ],
        betas=_BETAS,
    )
    rng = np.random.default_rng(seed)
    mean_weight = float(np.mean([one.weight for one in lists]))
    batches = [batch for _ in range(settings.epochs) for batch in _batches(len(lists), settings.batch_lists, rng)]
    for step, batch in enumerate(batches):
        progress(step, len(batches))
        loss = torch.zeros(())
        drawn = [(lists[place], _drawn(lists[place].target, settings.most_documents, rng)) for place in batch]
        found = network.similarities([(one.query, [one.documents[i] for i in at]) for one, at in drawn])
        for (one, at), similarity in zip(drawn, found, strict=True):
            said = log_slope.exp() * similarity + torch.from_numpy(one.biases[at]).float()
            goal = torch.softmax(torch.from_numpy(one.target[at]).float() / temperature, dim=0)
            share = one.weight / mean_weight / len(batch)
            loss = loss + share * functional.kl_div(torch.log_softmax(said / temperature, dim=0), goal, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        network.gather()
        nn.utils.clip_grad_norm_(masters, _CLIP)
        for group, rate in zip(
            optimiser.param_groups, (settings.learning_rate, settings.temperature_rate), strict=True
        ):
            group["lr"] = rate * (1.0 - step / len(batches))
        optimiser.step()
        optimiser.zero_grad()
        network.spread()
    return TunedRanker.on(encoder, network.changed(), float(log_slope.detach().exp()))


def _batches(lists: int, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    order = rng.permutation(lists).tolist()
    yield from (order[start : start + size] for start in range(0, lists, size))


def _drawn(target: Floats, most: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Places of the documents of one step: all of a short list, else the teacher's best half and others by chance."""
    if len(target) <= most:
        return np.arange(len(target))
    order = np.argsort(-target, kind="stable")
    return np.sort(np.concatenate([order[: most // 2], rng.permutation(order[most // 2 :])[: most - most // 2]]))
