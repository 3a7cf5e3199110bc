"""Training a decoder's top layers: the right gradients, whatever is shared, padded, cached or cut in parts."""

import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from store.student.chat.adapter import Trained
from store.student.chat.decoder import Decoder
from tests.tiny_decoders import FAMILIES, tiny_decoder
from tests.trainer.chat.lessons import decoder_in, lesson, lessons
from trainer.learn.chat.training import fit, loop
from trainer.learn.chat.training.cached import Lesson, LowerStates, families
from trainer.learn.chat.training.gradients import Batch, Gradients, Part, StepLoss, TooLittleMemoryError
from trainer.learn.chat.training.job import Tuning
from trainer.learn.chat.training.layers import TopLayers
from trainer.learn.chat.training.losses import Heard

TUNING = Tuning(layers=2, rank=4, alpha=8, epochs=1, batch_rows=6, micro_rows=6)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return decoder_in(tmp_path_factory.mktemp("tiny"))


def gradients(decoder: Decoder, some: Sequence[Lesson], names: Sequence[str], settings: Tuning) -> list[Tensor]:
    """Of one step over all lessons, as the trainer computes it."""
    stack, first = decoder.stack, 2 if settings.layers else 0
    groups = families(some, names)
    states = LowerStates(stack, first=first, base="base", folder=None)
    for group in groups:
        list(states.prepare(group, [some[place] for place in group.places]))
    top = TopLayers(stack, first=first, rank=settings.rank, alpha=settings.alpha, start=None, seed=0)
    shake(top)
    found = Gradients(StepLoss(top, states, some, groups, settings.distribution), some)
    for number, group in enumerate(groups):
        found.of(Batch(number, group.places), top.parameters, settings.micro_rows)
    return [parameter.grad.clone() for parameter in top.parameters if parameter.grad is not None]


def shake(top: TopLayers) -> None:
    """Away from B = 0, where A has no gradient."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in top.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def in_whole(decoder: Decoder, some: Sequence[Lesson], names: Sequence[str], settings: Tuning) -> list[Tensor]:
    """The same gradients by the library's model, row by row: nothing shared, padded, cached or chunked."""
    top = TopLayers(
        decoder.stack, first=2 if settings.layers else 0, rank=settings.rank, alpha=settings.alpha, start=None, seed=0
    )
    shake(top)
    for name in sorted(set(names)):
        own = [one for one, of in zip(some, names, strict=True) if of == name]
        tokens = sum(one.weight * len(one.answer) for one in own)
        for one in own:
            logits = top.stack.model(input_ids=torch.tensor([[*one.prompt, *one.answer]])).logits[0]
            said = logits[len(one.prompt) - 1 : -1]
            loss = one.weight / tokens * functional.cross_entropy(said, torch.tensor(one.answer), reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
    return [parameter.grad.clone() for parameter in top.parameters if parameter.grad is not None]


@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize("layers", [2, None])
@pytest.mark.parametrize("micro_rows", [6, 4, 1])
def test_shared_padded_and_cut_the_gradients_are_those_of_each_row_by_itself(
    decoder: Decoder, layers: int | None, rank: int | None, micro_rows: int
) -> None:
    some = lessons(decoder, 6)
    some[1] = replace(some[1], weight=2.5)
    settings = replace(TUNING, layers=layers, rank=rank, micro_rows=micro_rows)
    names = ["same"] * 6
    assert families(some, names)[0].prefix  # there is something to share
    ours, theirs = gradients(decoder, some, names, settings), in_whole(decoder, some, names, settings)
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("layers", "rank"), [(2, 4), (None, 4), (2, None)])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_each_family_is_trained_as_the_librarys_own_model_is(
    tmp_path: Path, family: str, layers: int | None, rank: int | None
) -> None:
    """An adapter above cached layers, an adapter on all of them, and layers in full."""
    decoder = Decoder.load(tiny_decoder(tmp_path, family=family, seed=3), device="cpu", precision="fp32")
    some, names, settings = lessons(decoder, 3), ["x"] * 3, replace(TUNING, layers=layers, rank=rank, micro_rows=2)
    ours, theirs = gradients(decoder, some, names, settings), in_whole(decoder, some, names, settings)
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("rank", [4, None])
def test_a_decoder_in_bf16_is_trained_in_the_same_direction_with_float32_masters(
    decoder: Decoder, tmp_path: Path, rank: int | None
) -> None:
    decoder_in(tmp_path)
    coarse = Decoder.load(tmp_path, device="cpu", precision="bf16")
    some, names, settings = lessons(decoder, 6), ["x"] * 6, replace(TUNING, rank=rank)
    ours, theirs = (
        torch.cat([one.flatten() for one in gradients(of, some, names, settings)]) for of in (coarse, decoder)
    )
    assert ours.dtype == torch.float32
    assert functional.cosine_similarity(ours, theirs, dim=0) > 0.97
    assert float(ours.norm() / theirs.norm()) == pytest.approx(1.0, abs=0.1)


def test_rows_of_several_prefixes_and_a_row_that_is_alone_are_each_behind_their_own(decoder: Decoder) -> None:
    some = lessons(decoder, 5, systems=("Be short.", "Speak freely, please."))
    names = ["a", "b", "a", "b", "c"]
    ours, theirs = gradients(decoder, some, names, TUNING), in_whole(decoder, some, names, TUNING)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-5)


def test_the_end_of_an_answer_is_learned_though_the_same_token_pads(decoder: Decoder) -> None:
    """Padding has id 0 here, which is the end: rows are told apart by length."""
    end = decoder.template.end
    assert end == 0
    system, asked = {"role": "system", "content": "s"}, {"role": "user", "content": "abc"}
    longer = {"role": "user", "content": "a much longer question"}
    some = [lesson(decoder, [system, asked], "y"), lesson(decoder, [system, longer], "n")]
    assert all(one.answer[-1] == end for one in some)
    trained = fit.fit(
        decoder, some, ["x"] * 2, start=None, settings=replace(TUNING, epochs=60, learning_rate=3e-2), seed=0
    )
    said = merged(decoder, trained).teacher_forced([one.prompt for one in some], [one.answer for one in some])
    assert said.greedy == [list(one.answer) for one in some]


def test_a_teachers_distribution_counts_beside_the_text_each_by_its_own_tokens(decoder: Decoder) -> None:
    some = lessons(decoder, 3)
    told = torch.tensor(some[1].answer)
    heard = Heard(
        ids=torch.stack([told, told % 90 + 100], dim=1),
        logprobs=torch.log(torch.tensor([[0.6, 0.3]])).expand(len(told), 2),
    )
    some[1] = replace(some[1], heard=heard)
    names = ["x"] * 3
    ours = gradients(decoder, some, names, replace(TUNING, distribution=0.5))
    top = TopLayers(decoder.stack, first=2, rank=4, alpha=8, start=None, seed=0)
    shake(top)
    tokens = sum(len(one.answer) for one in some)
    for one in some:
        logits = top.stack.model(input_ids=torch.tensor([[*one.prompt, *one.answer]])).logits[0]
        logq = logits[len(one.prompt) - 1 : -1].log_softmax(-1)
        loss = functional.nll_loss(logq, torch.tensor(one.answer), reduction="sum") / tokens
        if one is some[1]:
            on = logq.gather(1, heard.ids)
            off = torch.log1p(-on.exp().sum(-1))
            kl = (heard.logprobs.exp() * (heard.logprobs - on)).sum() + (0.1 * (math.log(0.1) - off)).sum()
            loss = loss + 0.5 * kl / len(told)
        loss.backward()  # type: ignore[no-untyped-call]
    for mine, other in zip(ours, [one.grad for one in top.parameters], strict=True):
        assert other is not None
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-5)


def merged(decoder: Decoder, trained: Trained) -> Decoder:
    """The decoder with what was trained, by plain arithmetic."""
    own = dict(decoder.model.named_parameters())
    if trained.rank is None:
        return decoder.twin(trained.tensors)
    changed = {}
    for name, value in trained.tensors.items():
        if name.endswith(".lora_A.weight"):
            at = name.removeprefix("base_model.model.").replace(".lora_A", "")
            product = trained.tensors[name.replace("lora_A", "lora_B")] @ value
            changed[at] = own[at] + trained.alpha / trained.rank * product
    return decoder.twin(changed)


def test_kept_states_give_the_same_weights_and_a_broken_file_is_computed_again(
    decoder: Decoder, tmp_path: Path
) -> None:
    some = lessons(decoder, 8)
    names = ["x"] * 8
    first, again = (
        fit.fit(decoder, some, names, start=None, settings=TUNING, seed=0, folder=tmp_path) for _ in range(2)
    )
    alone = fit.fit(decoder, some, names, start=None, settings=TUNING, seed=0)
    assert_equal(first, again)
    assert_equal(first, alone)
    (shard,) = (tmp_path / "states").rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-100])
    assert_equal(first, fit.fit(decoder, some, names, start=None, settings=TUNING, seed=0, folder=tmp_path))
    assert not list(tmp_path.rglob("*.checkpoint"))


def test_states_of_rows_that_are_gone_go_and_those_of_another_base(decoder: Decoder, tmp_path: Path) -> None:
    many = lessons(decoder, 20)
    (tmp_path / "states" / "another-2").mkdir(parents=True)
    fit.fit(decoder, many, ["x"] * 20, start=None, settings=TUNING, seed=0, folder=tmp_path)
    (folder,) = (tmp_path / "states").iterdir()
    before = set(folder.iterdir())
    few = lessons(decoder, 4, seed=5)
    fit.fit(decoder, few, ["x"] * 4, start=None, settings=TUNING, seed=0, folder=tmp_path)
    after = set(folder.iterdir())
    assert len(after) == 1
    assert not before & after


def assert_equal(one: Trained, other: Trained) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        assert torch.equal(value, other.tensors[name]), name


def test_a_warm_start_goes_on_from_where_it_was(decoder: Decoder) -> None:
    some, names = lessons(decoder, 6), ["x"] * 6
    first = fit.fit(decoder, some, names, start=None, settings=TUNING, seed=0)
    still = replace(TUNING, learning_rate=0.0)
    assert_equal(first, fit.fit(decoder, some, names, start=first, settings=still, seed=5))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("of the device"), RuntimeError("can't allocate memory: 12")])
def test_where_memory_does_not_suffice_fewer_rows_are_computed_at_once(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    some, names = lessons(decoder, 8), ["x"] * 8
    want = fit.fit(decoder, some, names, start=None, settings=TUNING, seed=0)
    most, seen, forward = 2, list[int](), StepLoss.forward

    def narrow(self: StepLoss, part: Part) -> Tensor:
        loss = forward(self, part)
        seen.append(len(part.places))
        if len(part.places) > most:
            loss.backward()  # type: ignore[no-untyped-call]  # it fails at the end: gradients are there already
            raise error
        return loss

    monkeypatch.setattr(StepLoss, "forward", narrow)
    found = fit.fit(decoder, some, names, start=None, settings=TUNING, seed=0)
    assert seen == [6, 3, 1, 1, 1, 1, 1, 1, 1, 1]  # and it stays with what did fit
    for name, value in want.tensors.items():
        assert torch.allclose(value, found.tensors[name], atol=2e-4), name
    most = 0
    with pytest.raises(TooLittleMemoryError, match="does not fit"):
        fit.fit(decoder, some, names, start=None, settings=TUNING, seed=0)


def test_any_other_error_is_none_of_memory(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        message = "shapes do not fit"
        raise RuntimeError(message)

    monkeypatch.setattr(StepLoss, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        fit.fit(decoder, lessons(decoder, 2), ["x"] * 2, start=None, settings=TUNING, seed=0)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.trainer.chat.lessons import lessons
from tests.trainer.chat.test_fit import LONG
from store.student.chat.decoder import Decoder
from trainer.learn.chat.training import fit
from trainer.learn.chat.training.gradients import Gradients
decoder = Decoder.load(Path(sys.argv[1]), device="cpu", precision="fp32")
some = lessons(decoder, 30)
steps = 0
plain = Gradients.of
def counted(self, *rest):
    global steps
    steps += 1
    if steps == 31:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, *rest)
Gradients.of = counted
fit.fit(decoder, some, ["x"] * 30, start=None, settings=LONG, seed=0, folder=Path(sys.argv[2]))
"""
LONG = replace(TUNING, epochs=10)  # 50 steps


def test_a_killed_training_goes_on_to_the_same_weights(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    decoder_in(base)
    some, names, lane = lessons(decoder, 30), ["x"] * 30, tmp_path / "lane"
    want = fit.fit(decoder, some, names, start=None, settings=LONG, seed=0)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(base), str(lane)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (lane / "all.checkpoint").is_file()
    seen = list[float]()
    found = fit.fit(decoder, some, names, start=None, settings=LONG, seed=0, folder=lane, progress=seen.append)
    assert next(one for one in seen if one) == 20 / 50  # not from the beginning
    assert_equal(want, found)
    assert not (lane / "all.checkpoint").exists()


def test_a_checkpoint_of_another_job_or_half_of_one_is_none(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_CHECKPOINT_STEPS", 2)
    some, names, path = lessons(decoder, 30), ["x"] * 30, tmp_path / "all.checkpoint"
    begun = Gradients.of

    def stopped(self: Gradients, *rest: Any) -> int:
        if path.exists():
            raise InterruptedError
        return begun(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Gradients, "of", stopped)
        with pytest.raises(InterruptedError):
            fit.fit(decoder, some, names, start=None, settings=TUNING, seed=0, folder=tmp_path)
    left = path.read_bytes()
    for seed, others in ((1, some), (0, some[::-1])):
        path.write_bytes(left)
        seen = list[float]()
        want = fit.fit(decoder, others, names, start=None, settings=TUNING, seed=seed)
        found = fit.fit(
            decoder, others, names, start=None, settings=TUNING, seed=seed, folder=tmp_path, progress=seen.append
        )
        assert 1 / 5 in seen  # its first step was done
        assert_equal(want, found)
    path.write_bytes(left[:200])
    want = fit.fit(decoder, some, names, start=None, settings=TUNING, seed=0)
    assert_equal(want, fit.fit(decoder, some, names, start=None, settings=TUNING, seed=0, folder=tmp_path))
