"""Fit a decoder's top layers to answers, on states that the layers below have computed once.

Each batch reads what its rows begin with once, with gradients, and every row's tokens behind it. The loss is a mean
over the tokens of the whole batch, whatever parts memory allows it to be computed in, on however many processes.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from store.registry.files.durable import make_folder
from store.student.chat.adapter import Trained
from store.student.chat.decoder import Decoder
from trainer.launch.rank import OutOfMemoryError
from trainer.launch.torchrun import launch
from trainer.learn.chat.training.cached import Lesson
from trainer.learn.chat.training.crew import Crew, Strategy
from trainer.learn.chat.training.gradients import TooLittleMemoryError
from trainer.learn.chat.training.job import Job, Tuning, read_trained
from trainer.learn.chat.training.loop import Tell, prepared, tell_nobody, train
from trainer.learn.chat.training.ranked import RESULT, Orders

ENTRY: Final = "trainer.learn.chat.training.ranked:work"
PATIENCE_S: Final = 600.0  # a rank that the others wait for so long has failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The processes that a training is spread over, one a device."""

    size: int
    strategy: Strategy
    directory: Path  # of the base, which each of them loads
    entry: str = ENTRY
    patience_s: float = PATIENCE_S


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
    ranks: Ranks | None = None,
    preparing: Tell = tell_nobody,
    progress: Tell = tell_nobody,
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
        ranks: to train on; None: in this process.
        preparing: told what share of the rows have the states that they start from.
        progress: told what share of the training is done.

    Raises:
        TooLittleMemoryError: not even one row at a time fits.
        NotANumberError: what was computed is no number.
        RankFailedError: a rank died, hung or raised, and all were ended.
    """
    job = Job(lessons=lessons, names=names, start=start, settings=settings, seed=seed)
    shared = [] if ranks is None else [ranks.size, ranks.strategy]
    digest = job.digest(decoder.fingerprint, torch.get_num_threads(), *shared)
    if ranks is None:
        trained = train(decoder, job, digest=digest, folder=folder, part=part, preparing=preparing, progress=progress)
    else:
        with TemporaryDirectory() as other:
            trained = _launched(decoder, job, ranks, digest, folder or Path(other), part, preparing, progress)
    if folder is not None:
        (folder / f"{part}.checkpoint").unlink(missing_ok=True)
    return trained


def _launched(
    decoder: Decoder, job: Job, ranks: Ranks, digest: str, folder: Path, part: str, preparing: Tell, progress: Tell
) -> Trained:
    """The same, by ranks; the layers below compute here, once for all of them."""
    crew = Crew(size=ranks.size, strategy=ranks.strategy)
    prepared(decoder, job, crew=crew, folder=folder, preparing=preparing)
    place = folder / f"{part}.job"
    rows = min(job.settings.micro_rows, job.settings.batch_rows)
    try:
        while True:
            shutil.rmtree(place, ignore_errors=True)
            make_folder(place)
            job.write(place)
            Orders(
                directory=str(ranks.directory),
                device=decoder.stack.device.type,
                precision=decoder.precision,
                threads=torch.get_num_threads(),
                strategy=ranks.strategy,
                patience_s=ranks.patience_s,
                digest=digest,
                rows=rows,
                folder=str(folder),
                part=part,
            ).write(place)
            try:
                launch(ranks.entry, place, ranks=ranks.size, told=progress)
            except OutOfMemoryError as error:
                if rows == 1:
                    raise TooLittleMemoryError(str(error)) from error
                rows //= 2  # of all ranks alike: their calls to one another must match
            else:
                return read_trained(place / RESULT)
    finally:
        shutil.rmtree(place, ignore_errors=True)
