"""The training loop: one job, on one process or on a rank of several."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from store.errors import UnderstudyError
from store.student.chat.adapter import Trained
from store.student.chat.decoder import Decoder
from trainer.learn.chat.training.cached import Family, Lesson, LowerStates, families
from trainer.learn.chat.training.checkpoint import Checkpoint, Reached
from trainer.learn.chat.training.crew import ALONE, Crew
from trainer.learn.chat.training.gradients import Batch, Gradients, StepLoss
from trainer.learn.chat.training.job import Job, Tuning
from trainer.learn.chat.training.layers import TopLayers

_BETAS: Final = (0.9, 0.999)
_CLIP: Final = 1.0
_CHECKPOINT_STEPS: Final = 20

Tell = Callable[[float], None]


class NotANumberError(UnderstudyError):
    """Gradients are no numbers: a faulty device, or too high a rate. Nothing of this step was kept."""


def tell_nobody(_done: float) -> None:
    """For who does not watch."""


def train(
    decoder: Decoder,
    job: Job,
    *,
    digest: str,
    crew: Crew = ALONE,
    rows: int | None = None,
    folder: Path | None = None,
    part: str = "all",
    preparing: Tell = tell_nobody,
    progress: Tell = tell_nobody,
) -> Trained:
    """Train on all lessons of a job.

    Args:
        decoder: the base; it is not changed.
        job: what is learned.
        digest: of all that the weights follow from; a checkpoint of another is none.
        crew: of this rank.
        rows: computed at once, at most; None: as the settings say.
        folder: the lane's own, for states and the checkpoint; None: nothing is kept.
        part: names the checkpoint, where several trainings of one cycle have one each.
        preparing: told what share of the rows have the states that they start from.
        progress: told what share of the training is done.

    Raises:
        TooLittleMemoryError: not even one row at a time fits.
        OutOfMemoryError: so many rows at once do not fit on this rank.
        NotANumberError: what was computed is no number.
    """
    lessons, settings = job.lessons, job.settings
    states, groups = prepared(decoder, job, crew=crew, folder=folder, preparing=preparing)
    first = first_layer(decoder, settings)
    top = TopLayers(
        decoder.stack,
        first=first,
        rank=settings.rank,
        alpha=settings.alpha,
        start=job.start,
        seed=job.seed,
        device=crew.device,
    )
    gradients = Gradients(StepLoss(top, states, lessons, groups, settings.distribution), lessons, crew=crew)
    parameters = top.parameters
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=_BETAS, weight_decay=settings.weight_decay, fused=True
    )
    batches = list(_batches(lessons, groups, settings, job.seed))
    kept = Checkpoint(folder / f"{part}.checkpoint", digest) if folder is not None else None
    reached = kept.load(parameters, optimiser) if kept is not None else None
    reached = reached or Reached(0, min(settings.micro_rows, settings.batch_rows))
    rows = min(reached.rows, rows or reached.rows)
    for step in range(reached.step, len(batches)):
        progress(step / len(batches))
        rows = gradients.of(batches[step], parameters, rows)
        if not bool(nn.utils.clip_grad_norm_(parameters, _CLIP).isfinite()):
            raise NotANumberError(_no_number(step, len(batches), crew.all_of(gradients.finite)))
        for one in optimiser.param_groups:
            one["lr"] = settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / len(batches)))
        optimiser.step()
        optimiser.zero_grad()
        if kept is not None and (step + 1) % _CHECKPOINT_STEPS == 0:
            kept.save(Reached(step + 1, rows), parameters, optimiser, writes=crew.rank == 0)
    return top.trained()


def prepared(
    decoder: Decoder, job: Job, *, crew: Crew = ALONE, folder: Path | None, preparing: Tell = tell_nobody
) -> tuple[LowerStates, list[Family]]:
    """What enters the trained layers, computed where it is not known; and the lessons, grouped by what they share.

    Args:
        decoder: the base.
        job: what is learned.
        crew: that will train.
        folder: the lane's own; None: nothing is kept.
        preparing: told what share of the rows is done.
    """
    states = LowerStates(
        decoder.stack,
        first=first_layer(decoder, job.settings),
        base=decoder.fingerprint,
        folder=folder and folder / "states",
    )
    groups = families(job.lessons, job.names)
    if not crew.shares_prefixes:
        groups = [replace(group, prefix=()) for group in groups]
    begun = 0
    for group in groups:
        for done in states.prepare(group, [job.lessons[place] for place in group.places]):
            preparing((begun + done) / len(job.lessons))
        begun += len(group.places)
    if crew.rank == 0:
        states.forget(groups, job.lessons)
    return states, groups


def first_layer(decoder: Decoder, settings: Tuning) -> int:
    """The lowest layer that is trained."""
    return 0 if settings.layers is None else max(0, decoder.stack.layers - settings.layers)


def _no_number(step: int, steps: int, finite: Sequence[bool]) -> str:
    odd = [str(rank) for rank, is_finite in enumerate(finite) if not is_finite]
    who = f", and so are the losses of rank {', '.join(odd)}" if odd and len(finite) > 1 else ""
    return f"the gradients of step {step + 1} of {steps} are no numbers{who}"


def _batches(lessons: Sequence[Lesson], groups: Sequence[Family], settings: Tuning, seed: int) -> Iterator[Batch]:
    """All epochs: batches of one family and of like lengths, in random order; ties in length fall anew each time."""
    rng = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        found = []
        for number, group in enumerate(groups):
            places = np.array(group.places)
            lengths = np.array([len(lessons[place].read) for place in places])
            order = places[np.lexsort((rng.random(len(places)), lengths))].tolist()
            size = settings.batch_rows
            found += [Batch(number, tuple(order[at : at + size])) for at in range(0, len(order), size)]
        yield from (found[place] for place in rng.permutation(len(found)))
