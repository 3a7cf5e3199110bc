"""Fit a decoder's top layers to answers, on states that the layers below have computed once.

Each batch reads what its rows begin with once, with gradients, and every row's tokens behind it. The loss is a mean
over the tokens of the whole batch, whatever parts memory allows it to be computed in.
"""

import gc
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from store.errors import UnderstudyError
from store.registry.manifest import canonical_json
from store.student.chat.adapter import Trained
from store.student.chat.decoder import Decoder
from store.student.chat.stack import KeyValues
from trainer.learn.chat.training.cached import Family, Lesson, LowerStates, families, positions_of
from trainer.learn.chat.training.checkpoint import Checkpoint, Reached
from trainer.learn.chat.training.layers import TopLayers
from trainer.learn.chat.training.losses import ABSENT, Heard, answer_loss, shares

_BETAS: Final = (0.9, 0.999)
_CLIP: Final = 1.0
_CHECKPOINT_STEPS: Final = 20


class TooLittleMemoryError(UnderstudyError):
    """One row at a time is too much. Train fewer layers, take a smaller decoder, or give it more memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the top layers are trained."""

    layers: int | None = 6  # from the top; None: all of them
    rank: int | None = 16  # of the adapter; None: the layers in full
    alpha: int = 32
    epochs: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_rows: int = 8
    micro_rows: int = 8  # computed at once; halved where memory does not suffice
    distribution: float = 1.0  # weight of the KL to what the teacher said beside the cross-entropy


def fit(
    decoder: Decoder,
    lessons: Sequence[Lesson],
    names: Sequence[str],
    *,
    start: Trained | None,
    settings: Tuning,
    seed: int,
    folder: Path | None = None,
    part: str = "all",
    preparing: Callable[[float], None] = lambda _: None,
    progress: Callable[[float], None] = lambda _: None,
) -> Trained:
    """Train on all lessons.

    Args:
        decoder: the base; it is not changed.
        lessons: one or more.
        names: what each begins with: see `families`.
        start: an earlier training of the same layers to go on from.
        settings: layers, epochs, rates.
        seed: of the batches and the first weights: the same values and thread count give the same weights.
        folder: the lane's own, for states and the checkpoint; None: nothing is kept.
        part: names the checkpoint, where several trainings of one cycle have one each.
        preparing: told what share of the rows have the states that they start from.
        progress: told what share of the training is done.

    Raises:
        TooLittleMemoryError: not even one row at a time fits.
    """
    stack = decoder.stack
    first = 0 if settings.layers is None else max(0, stack.layers - settings.layers)
    states = LowerStates(stack, first=first, base=decoder.fingerprint, folder=folder and folder / "states")
    groups = families(lessons, names)
    begun = 0
    for group in groups:
        for done in states.prepare(group, [lessons[place] for place in group.places]):
            preparing((begun + done) / len(lessons))
        begun += len(group.places)
    states.forget(groups, lessons)
    top = TopLayers(stack, first=first, rank=settings.rank, alpha=settings.alpha, start=start, seed=seed)
    steps = _Steps(top, states, lessons, groups, settings)
    optimiser = torch.optim.AdamW(
        top.parameters, lr=settings.learning_rate, betas=_BETAS, weight_decay=settings.weight_decay, fused=True
    )
    batches = list(_batches(lessons, groups, settings, seed))
    job = _job(decoder, lessons, names, start, settings, seed)
    kept = Checkpoint(folder / f"{part}.checkpoint", job) if folder is not None else None
    reached = kept.load(top.parameters, optimiser) if kept is not None else None
    reached = reached or Reached(0, min(settings.micro_rows, settings.batch_rows))
    rows = reached.rows
    for step in range(reached.step, len(batches)):
        progress(step / len(batches))
        rows = steps.gradients(batches[step], rows)
        nn.utils.clip_grad_norm_(top.parameters, _CLIP)
        for one in optimiser.param_groups:
            one["lr"] = settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / len(batches)))
        optimiser.step()
        optimiser.zero_grad()
        if kept is not None and (step + 1) % _CHECKPOINT_STEPS == 0:
            kept.save(Reached(step + 1, rows), top.parameters, optimiser)
    if kept is not None:
        kept.clear()
    return top.trained()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows of one family."""

    group: int
    places: tuple[int, ...]


class _Steps:
    """Gradients of one batch after the other."""

    def __init__(
        self,
        top: TopLayers,
        states: LowerStates,
        lessons: Sequence[Lesson],
        groups: Sequence[Family],
        settings: Tuning,
    ) -> None:
        self._top, self._states, self._lessons, self._groups = top, states, lessons, groups
        self._settings = settings
        self._prefixes: dict[int, Tensor] = {}

    def gradients(self, batch: _Batch, rows: int) -> int:
        """Leave the batch's gradients in the parameters; says how many rows at once memory has allowed.

        Raises:
            TooLittleMemoryError: not even one does.
        """
        weights = [self._weights(self._lessons[place]) for place in batch.places]
        totals = [float(sum(float(one[kind].sum()) for one in weights)) for kind in (0, 1)]
        while True:
            try:
                for at in range(0, len(batch.places), rows):
                    self._part(batch.group, batch.places[at : at + rows], weights[at : at + rows], totals)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if rows == 1:
                    message = f"one row of {len(self._lessons[batch.places[0]].read)} tokens does not fit: {error}"
                    raise TooLittleMemoryError(message) from error
            else:
                return rows
            rows //= 2
            for parameter in self._top.parameters:
                parameter.grad = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _part(
        self, group: int, places: Sequence[int], weights: Sequence[tuple[Tensor, Tensor]], totals: Sequence[float]
    ) -> None:
        stack, device = self._top.stack, self._top.stack.device
        lessons, family = [self._lessons[place] for place in places], self._groups[group]
        with torch.autocast(device.type, torch.bfloat16, enabled=self._top.autocast):
            hidden, positions, where = self._inputs(family, lessons)
            found, _ = stack.run(hidden, positions, start=self._top.first, past=self._past(group))
            asked = stack.norm(found[where]).to(stack.head.dtype)
        heard = together([lesson.heard for lesson in lessons])
        text, distribution = shares(
            *(torch.cat([one[kind] for one in weights]) for kind in (0, 1)),
            text_total=totals[0],
            distribution_total=totals[1],
        )
        loss = answer_loss(
            asked,
            stack.head,
            Heard(ids=heard.ids.to(device), logprobs=heard.logprobs.to(device)),
            text=text.to(device),
            distribution=self._settings.distribution * distribution.to(device),
            softcap=stack.softcap,
        )
        loss.backward()  # type: ignore[no-untyped-call]

    def _past(self, group: int) -> KeyValues | None:
        """Keys and values of what the family begins with, from the trained layers as they are now."""
        prefix = self._groups[group].prefix
        if not prefix:
            return None
        if group not in self._prefixes:
            self._prefixes[group] = self._top.taken(self._states.prefix(prefix))
        positions = positions_of([len(prefix)], 0).to(self._top.stack.device)
        _, past = self._top.stack.run(self._prefixes[group], positions, start=self._top.first)
        return past

    def _inputs(self, family: Family, lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor, Tensor]:
        """States [rows, tokens, hidden], positions [rows, tokens], and [rows, tokens] whether an answer follows.

        By lengths, never by ids: the token that ends an answer may be the one that pads.
        """
        known, start = self._states.rows(family, lessons), len(family.prefix)
        hidden = self._top.taken(nn.utils.rnn.pad_sequence(known, batch_first=True))
        positions = positions_of([len(one) for one in known], start).to(hidden.device)
        before = torch.tensor([len(lesson.prompt) - 1 for lesson in lessons], device=hidden.device)
        return hidden, positions, positions >= before[:, None]

    def _weights(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """Weights of each token of an answer, as text and as a distribution."""
        known = torch.isfinite(lesson.heard.logprobs[:, 0])
        text = torch.full((len(lesson.answer),), lesson.weight)
        return text, torch.where(known, text, 0.0)


def together(heard: Sequence[Heard]) -> Heard:
    """One after the other, as wide as the widest."""
    width = max(one.ids.shape[1] for one in heard)

    def widened(one: Tensor, value: float) -> Tensor:
        return nn.functional.pad(one, (0, width - one.shape[1]), value=value)

    return Heard(
        ids=torch.cat([widened(one.ids, ABSENT) for one in heard]),
        logprobs=torch.cat([widened(one.logprobs, -torch.inf) for one in heard]),
    )


def _batches(lessons: Sequence[Lesson], groups: Sequence[Family], settings: Tuning, seed: int) -> Iterator[_Batch]:
    """All epochs: batches of one family and of like lengths, in random order; ties in length fall anew each time."""
    rng = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        found = []
        for number, group in enumerate(groups):
            places = np.array(group.places)
            lengths = np.array([len(lessons[place].read) for place in places])
            order = places[np.lexsort((rng.random(len(places)), lengths))].tolist()
            size = settings.batch_rows
            found += [_Batch(number, tuple(order[at : at + size])) for at in range(0, len(order), size)]
        yield from (found[place] for place in rng.permutation(len(found)))


def _job(
    decoder: Decoder,
    lessons: Sequence[Lesson],
    names: Sequence[str],
    start: Trained | None,
    settings: Tuning,
    seed: int,
) -> str:
    """Hash of all that the weights follow from."""
    digest = hashlib.sha256()
    for lesson, name in zip(lessons, names, strict=True):
        digest.update(canonical_json([name, lesson.prompt, lesson.answer, lesson.weight]))
        digest.update(lesson.heard.ids.numpy().tobytes() + lesson.heard.logprobs.numpy().tobytes())
    for name, value in sorted(start.tensors.items()) if start is not None else ():
        digest.update(name.encode() + value.numpy().tobytes())
    parts = [decoder.fingerprint, settings, seed, torch.get_num_threads(), digest.hexdigest()]
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory was the matter: torch has an error of its own for devices alone."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
