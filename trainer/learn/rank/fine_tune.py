"""Fine-tune the bi-encoder's top layers, listwise, on states that the layers below have computed once.

loss = mean over lists of KL(softmax(t / T) || softmax((s + b) / T)), T = T_teacher, s = T_teacher / T_student cos(q, d)

t are the teacher's scores, b the documents' own biases, and T_student is fitted with the weights: with equal
temperatures a student starts miscalibrated. T_teacher is a share of the scores' spread within a list, so that nothing
depends on the teacher's scale.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from store.student.encoder import Encoder, mean_pool
from store.student.rank.head import RankHead
from store.student.rank.ranker import TunedRanker

Floats = npt.NDArray[np.float64]

_BETAS: Final = (0.9, 0.98)
_CLIP: Final = 1.0
_TEMPERATURE_RATIO: Final = 0.28  # of the sd within a list: .05 where that is .18
_SMALLEST_TEMPERATURE: Final = 1e-4
_STATES_BATCH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTuning:
    """How the bi-encoder is fine-tuned; the defaults were the best of what was tried on 400 lists."""

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
    first = max(0, len(encoder.layers()) - settings.top_layers)
    states = _States(encoder, sorted({text for one in lists for text in (one.query, *one.documents)}), first)
    network = _Top(encoder, states, first, start)
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
        vectors = network.vectors([text for one, at in drawn for text in (one.query, *(one.documents[i] for i in at))])
        row = 0
        for one, at in drawn:
            query, documents = vectors[row], vectors[row + 1 : row + 1 + len(at)]
            row += 1 + len(at)
            said = log_slope.exp() * (documents @ query) + torch.from_numpy(one.biases[at]).float()
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


class _Stop(Exception):  # noqa: N818 - no error: the layers above are not computed
    """The states are there."""


class _States:
    """What enters the first trained layer, for each text: computed once, kept without padding."""

    def __init__(self, encoder: Encoder, texts: Sequence[str], first: int) -> None:
        self.rows = dict(zip(texts, encoder.tokenise(texts), strict=True))
        self.of: dict[str, Tensor] = {}
        order = sorted(texts, key=lambda text: len(self.rows[text]))
        seen: list[Tensor] = []

        def catch(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            seen.append(arguments[0])
            raise _Stop

        def note(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
            self.in_tuples = isinstance(output, tuple)

        self.in_tuples = False  # how this architecture's layers hand on their states
        hooks = [encoder.layers()[first].register_forward_pre_hook(catch)]
        hooks += [layer.register_forward_hook(note) for layer in encoder.layers()[: min(first, 1)]]
        try:
            for start in range(0, len(order), _STATES_BATCH):
                batch = order[start : start + _STATES_BATCH]
                ids, mask = encoder.pad([self.rows[text] for text in batch])
                try:
                    with torch.inference_mode():
                        encoder.model(input_ids=ids, attention_mask=mask)
                except _Stop:
                    pass
                for place, text in enumerate(batch):
                    self.of[text] = seen[-1][place, : len(self.rows[text])].clone()
        finally:
            for hook in hooks:
                hook.remove()


class _Given(nn.Module):
    """Stands in the place of a lower layer: says what was computed before, or passes on what it is given."""

    def __init__(self, *, in_tuples: bool) -> None:
        super().__init__()
        self.states: Tensor | None = None
        self._in_tuples = in_tuples

    def forward(self, states: Tensor, *_: Any, **__: Any) -> Tensor | tuple[Tensor]:
        """The kept states, whatever comes in."""
        found = states if self.states is None else self.states
        return (found,) if self._in_tuples else found


class _Top:
    """A trainable copy of the encoder's top layers over kept states, with fp32 masters of its weights."""

    def __init__(self, encoder: Encoder, states: _States, first: int, start: TunedRanker | None) -> None:
        self._encoder, self._states = encoder, states
        upper = {id(p) for layer in encoder.layers()[first:] for p in layer.parameters()}
        own = {name: p for name, p in encoder.model.named_parameters() if id(p) in upper}
        begun = {name: p.detach().float().cpu() for name, p in own.items()}
        if start is not None:
            begun |= {name: value for name, value in start.changed.items() if name in begun}
        self.model: Any = encoder.with_changed(begun)
        if encoder.device.type == "cpu":
            self.model.set_attn_implementation("eager")
        layers = encoder.layers(self.model)
        self._given = _Given(in_tuples=states.in_tuples)
        for place in range(first):
            layers[place] = self._given if place == first - 1 else _Given(in_tuples=states.in_tuples)
        self._lowest = first == 0
        self.model.eval()
        named = dict(self.model.named_parameters())
        self._names = [name for name in begun if name in named]
        self._working = [named[name].requires_grad_(requires_grad=True) for name in self._names]
        self.masters = [begun[name].to(encoder.device).clone().requires_grad_() for name in self._names]

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """[n, hidden] of length 1, float32, on the CPU."""
        names = list(dict.fromkeys(texts))
        ids, mask = self._encoder.pad([self._states.rows[text] for text in names])
        if not self._lowest:
            self._given.states = nn.utils.rnn.pad_sequence([self._states.of[text] for text in names], batch_first=True)
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        place = {text: number for number, text in enumerate(names)}
        return mean_pool(hidden, mask).cpu()[[place[text] for text in texts]]

    def gather(self) -> None:
        """Hand the gradients to the masters."""
        for master, working in zip(self.masters, self._working, strict=True):
            master.grad = working.grad.float() if working.grad is not None else torch.zeros_like(master)
            working.grad = None

    def spread(self) -> None:
        """Compute on with what the masters have become."""
        with torch.no_grad():
            for master, working in zip(self.masters, self._working, strict=True):
                working.copy_(master)

    def changed(self) -> dict[str, Tensor]:
        """The trained parameters, float32 on the CPU."""
        return {name: m.detach().float().cpu().clone() for name, m in zip(self._names, self.masters, strict=True)}
