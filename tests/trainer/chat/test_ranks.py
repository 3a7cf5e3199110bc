"""Two ranks are one: the same weights, whichever way a model is shared, through faults as well."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from store.student.chat.adapter import Trained
from store.student.chat.decoder import Decoder
from tests.trainer.chat.faulty import FAULT
from tests.trainer.chat.lessons import decoder_in, lessons
from trainer.launch.torchrun import RankFailedError
from trainer.learn.chat.training.cached import Lesson
from trainer.learn.chat.training.crew import Crew
from trainer.learn.chat.training.fit import Ranks, fit
from trainer.learn.chat.training.gradients import Batch, Gradients, StepLoss, TooLittleMemoryError
from trainer.learn.chat.training.job import Job, Tuning, read_trained, write_trained
from trainer.learn.chat.training.layers import TopLayers
from trainer.learn.chat.training.loop import prepared

pytestmark = pytest.mark.timeout(1800)  # each launch is three processes that import torch

TUNING = Tuning(layers=2, rank=4, alpha=8, epochs=6, batch_rows=6, micro_rows=3)
STEPS = 30  # 26 rows: four batches of six and one of two, six times
TOLERANCE = 2e-5  # sums of float32 in another order; weights move by 1e-2
FAULTY = "tests.trainer.chat.faulty:work"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def decoder(base: Path) -> Decoder:
    return decoder_in(base)


def some_lessons(decoder: Decoder) -> list[Lesson]:
    """Answers of unlike lengths and weights, on two system prompts, one of which is but a few rows'."""
    found = lessons(decoder, 26, systems=("Be short.",))
    return [replace(one, weight=1.0 + number % 3) for number, one in enumerate(found)]


def off(one: Trained, other: Trained) -> float:
    assert one.tensors.keys() == other.tensors.keys()
    return max(float((one.tensors[name] - other.tensors[name]).abs().max()) for name in one.tensors)


def ranks(base: Path, strategy: str = "ddp") -> Ranks:
    assert strategy in {"ddp", "fsdp"}
    return Ranks(size=2, strategy="fsdp" if strategy == "fsdp" else "ddp", directory=base, entry=FAULTY)


def asked(folder: Path) -> list[int]:
    """How many rows at once each rank of each launch was told."""
    return [int(one) for one in (folder / "asked").read_text().split()]


@pytest.mark.long
def test_a_rank_of_nan_is_named_and_the_next_cycle_goes_on_to_the_weights_of_one_process(
    decoder: Decoder, base: Path, tmp_path: Path
) -> None:
    some, names = some_lessons(decoder), ["x"] * 26
    want = fit(decoder, some, names, start=None, settings=TUNING, seed=0)
    still = fit(decoder, some, names, start=None, settings=replace(TUNING, learning_rate=0.0), seed=0)
    assert off(want, still) > 100 * TOLERANCE  # there is something to be equal in
    (tmp_path / FAULT).write_text(json.dumps({"sane": 23}))
    with pytest.raises(RankFailedError, match=r"the gradients of step 2\d of 30 are no numbers.*of rank 1"):
        fit(decoder, some, names, start=None, settings=TUNING, seed=0, folder=tmp_path, ranks=ranks(base))
    assert (tmp_path / "all.checkpoint").is_file()
    assert not (tmp_path / "all.job").exists()
    (tmp_path / FAULT).unlink()
    seen = list[float]()
    found = fit(
        decoder,
        some,
        names,
        start=None,
        settings=TUNING,
        seed=0,
        folder=tmp_path,
        ranks=ranks(base),
        progress=seen.append,
    )
    assert min(seen) >= 20 / STEPS  # not from the beginning
    assert off(want, found) < TOLERANCE
    assert {one.name for one in tmp_path.iterdir()} == {"states", "asked"}


@pytest.mark.parametrize(("rank", "strategy"), [(4, "fsdp"), pytest.param(None, "fsdp", marks=pytest.mark.long)])
def test_a_rank_without_memory_halves_the_rows_of_all_and_the_weights_are_those_of_one_process(
    decoder: Decoder, base: Path, tmp_path: Path, rank: int | None, strategy: str
) -> None:
    some, names = some_lessons(decoder), ["x"] * 26
    settings = replace(TUNING, layers=None, rank=rank, epochs=1)
    want = fit(decoder, some, names, start=None, settings=settings, seed=0)
    (tmp_path / FAULT).write_text(json.dumps({"most": 1}))
    found = fit(
        decoder, some, names, start=None, settings=settings, seed=0, folder=tmp_path, ranks=ranks(base, strategy)
    )
    assert asked(tmp_path) == [3, 3, 1, 1]
    assert off(want, found) < TOLERANCE


def test_where_not_even_one_row_fits_a_rank_nothing_is_tried_again(
    decoder: Decoder, base: Path, tmp_path: Path
) -> None:
    (tmp_path / FAULT).write_text(json.dumps({"most": 0}))
    settings = replace(TUNING, micro_rows=1, epochs=1)
    with pytest.raises(TooLittleMemoryError, match="does not fit"):
        fit(
            decoder,
            some_lessons(decoder),
            ["x"] * 26,
            start=None,
            settings=settings,
            seed=0,
            folder=tmp_path,
            ranks=ranks(base),
        )
    assert asked(tmp_path) == [1, 1]


@pytest.mark.parametrize("places", [(1,), (1, 2), (1, 2, 3, 4, 5), tuple(range(8))])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_row_is_one_ranks_and_all_ranks_have_as_many(places: Sequence[int], size: int) -> None:
    own = [Crew(rank=rank, size=size).own(places) for rank in range(size)]
    assert len({len(one) for one in own}) == 1
    assert sorted(place for rows in own for place, counts in rows if counts) == sorted(places)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_the_mean_over_the_ranks_is_the_gradient_of_the_whole_step(decoder: Decoder, size: int, rows: int) -> None:
    """Rows of unlike lengths and weights, more ranks than divide them: an optimiser alone would hide a wrong scale."""
    some = some_lessons(decoder)[:4]
    job = Job(lessons=some, names=["x"] * 4, start=None, settings=TUNING, seed=0)
    states, groups = prepared(decoder, job, folder=None)

    def gradients(crews: Sequence[Crew]) -> list[Tensor]:
        top = TopLayers(decoder.stack, first=2, rank=None, alpha=8, start=None, seed=0)
        for crew in crews:
            Gradients(StepLoss(top, states, some, groups, 1.0), some, crew=crew).of(
                Batch(0, (0, 1, 2, 3)), top.parameters, rows
            )
        return [one.grad / len(crews) for one in top.parameters if one.grad is not None]

    want = gradients([Crew()])
    found = gradients([Crew(rank=rank, size=size) for rank in range(size)])
    assert len(want) == len(found) > 0
    for one, other in zip(want, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_job_comes_back_from_its_files(decoder: Decoder, tmp_path: Path) -> None:
    some = some_lessons(decoder)
    start = fit(decoder, some[:2], ["x", "y"], start=None, settings=replace(TUNING, epochs=1), seed=0)
    for begun in (None, start):
        job = Job(lessons=some, names=["x", "y"] * 13, start=begun, settings=TUNING, seed=7)
        job.write(tmp_path)
        found = Job.read(tmp_path)
        assert found.digest() == job.digest()
        assert (found.start is None) == (begun is None)
    write_trained(tmp_path / "trained", start)
    assert off(read_trained(tmp_path / "trained"), start) == 0.0


def test_nothing_is_dropped_out_in_training_whatever_the_model_was_made_with(tmp_path: Path) -> None:
    """Two ranks could not be one, nor a training that was killed the same, if chance had a hand in a step."""
    for name, share in (("plain", 0.0), ("dropping", 0.5)):
        decoder_in(tmp_path / name)
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_dropout": share}))
    found = list[Trained]()
    for name in ("plain", "dropping"):
        decoder = Decoder.load(tmp_path / name, device="cpu", precision="fp32")
        torch.manual_seed(len(found))
        settings = replace(TUNING, epochs=1)
        found.append(fit(decoder, some_lessons(decoder), ["x"] * 26, start=None, settings=settings, seed=0))
    assert off(*found) == 0.0
