"""Fine-tuning learns, repeats itself, and leaves the base and its lowest layers alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from store.student.encoder import Encoder, FloatArray, Precision
from store.student.tuned import Tuned
from tests.tiny import TOPICS, questions, tiny_encoder
from trainer.learn.classify.fine_tune import FineTuneSettings, _Network, _schedule, fine_tune
from trainer.learn.classify.probe import Probe, probe
from trainer.learn.dropout import ByteDropout

LABELS = sorted(TOPICS)
TEXTS, ANSWERS = questions(120)
TARGETS = np.eye(3, dtype=np.float32)[[LABELS.index(answer) for answer in ANSWERS]]
ONES = np.ones(120, dtype=np.float32)
FAST = FineTuneSettings(learning_rate=3e-3, head_learning_rate=0.03, batch_rows=8)
STILL = replace(FAST, epochs=1, warm_epochs=1, learning_rate=0.0, head_learning_rate=0.0)
UNSEEN = questions(100, seed=1)


def blank(labels: int = 3) -> Probe:
    return Probe(weight=torch.zeros(labels, 32), bias=torch.zeros(labels))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


def encoder_of(folder: Path, precision: Precision) -> Encoder:
    return Encoder.load(folder, device="cpu", precision=precision, max_tokens=32)


@pytest.fixture
def encoder(folder: Path) -> Encoder:
    return encoder_of(folder, "fp32")


def probe_of(encoder: Encoder) -> Probe:
    """The best linear classifier on the base."""
    return probe(encoder.pooled(encoder.tokenise(TEXTS), layers=1), TARGETS, ONES, c=100.0)


def agreement(member: Probe | Tuned, encoder: Encoder) -> float:
    """On questions that nobody was trained on."""
    texts, answers = UNSEEN
    rows = encoder.tokenise(texts)
    if isinstance(member, Probe):
        logits = encoder.pooled(rows, layers=1) @ member.weight.numpy().T + member.bias.numpy()
    else:
        logits = member.logits(rows)
    return float(np.mean([LABELS[i] == answer for i, answer in zip(logits.argmax(axis=1), answers, strict=True)]))


def train(encoder: Encoder, *, start: Probe | Tuned | None = None, weights: FloatArray = ONES, seed: int = 0) -> Tuned:
    return fine_tune(encoder, TEXTS, TARGETS, weights=weights, start=start or blank(), settings=FAST, seed=seed)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_tells_unseen_questions_apart_better_than_its_probe(folder: Path, precision: Precision) -> None:
    encoder = encoder_of(folder, precision)
    probe = probe_of(encoder)
    assert agreement(train(encoder, start=probe), encoder) > agreement(probe, encoder) + 0.02


def test_only_the_upper_layers_change_and_the_base_stays_as_it_was(encoder: Encoder) -> None:
    before = {name: p.clone() for name, p in encoder.model.named_parameters()}
    features = encoder.features(TEXTS[:4])
    tuned = train(encoder)
    assert {name.split(".")[2] for name in tuned.changed} == {"1", "2", "3"}
    assert all(torch.equal(p, before[name]) for name, p in encoder.model.named_parameters())
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert not encoder.model.training
    assert encoder.model.config._attn_implementation != "eager"
    np.testing.assert_array_equal(encoder.features(TEXTS[:4]), features)
    assert any(not torch.equal(value, before[name].float()) for name, value in tuned.changed.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder: Path, precision: Precision) -> None:
    encoder = encoder_of(folder, precision)
    torch.manual_seed(1)
    one = train(encoder).tensors()
    torch.manual_seed(2)
    other = train(encoder).tensors()
    assert all(torch.equal(one[name], other[name]) for name in one)
    third = train(encoder, seed=5).tensors()
    assert not all(torch.equal(one[name], third[name]) for name in one)


def test_it_leaves_the_processes_own_chance_alone(encoder: Encoder) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(encoder)
    assert torch.equal(torch.rand(1), expected)


def test_hidden_states_alone_are_dropped_from(encoder: Encoder) -> None:
    network = _Network(encoder, blank(), FAST, seed=0)
    modules = dict(network.model.named_modules(remove_duplicate=False))
    ours = {name for name, module in modules.items() if isinstance(module, ByteDropout)}
    theirs = {name: module.p for name, module in modules.items() if isinstance(module, torch.nn.Dropout)}
    assert {name.split(".")[-2] for name in ours} == {"embeddings", "output"}
    assert set(theirs.values()) == {0.0}
    assert all(".attention.self." in name for name in theirs)


def test_it_starts_from_the_probe_and_goes_on_from_the_member(encoder: Encoder) -> None:
    start = Probe(weight=torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), bias=torch.ones(3))
    tuned = fine_tune(encoder, TEXTS, TARGETS, weights=ONES, start=start, settings=STILL, seed=0)
    pooled = encoder.pooled(encoder.tokenise(TEXTS), layers=1)
    said = pooled @ start.weight.numpy().T + start.bias.numpy()
    np.testing.assert_allclose(tuned.logits(encoder.tokenise(TEXTS)), said, atol=1e-4)
    warm = fine_tune(encoder, TEXTS, TARGETS, weights=ONES, start=tuned, settings=STILL, seed=0)
    np.testing.assert_allclose(warm.logits(encoder.tokenise(TEXTS)), said, atol=1e-4)


def test_warm_goes_on_from_the_last_weights_and_takes_new_labels_in(encoder: Encoder) -> None:
    two = np.array([answer != LABELS[2] for answer in ANSWERS])
    texts = [text for text, kept in zip(TEXTS, two, strict=True) if kept]
    early = fine_tune(encoder, texts, TARGETS[two][:, :2], weights=ONES[two], start=blank(2), settings=FAST, seed=0)
    same = fine_tune(encoder, TEXTS, TARGETS, weights=ONES, start=early, settings=STILL, seed=0)
    assert all(torch.equal(same.changed[name], value) for name, value in early.changed.items())
    found = probe(early.pooled(encoder.tokenise(TEXTS)), TARGETS, ONES)
    assert torch.equal(same.weight, found.weight)
    assert torch.equal(same.bias, found.bias)
    warm = train(encoder, start=early)
    assert warm.labels == 3
    assert agreement(warm, encoder) > 0.6


def test_a_row_that_weighs_nothing_teaches_nothing(encoder: Encoder) -> None:
    lies = TARGETS.copy()
    lies[::2] = np.roll(lies[::2], 1, axis=1)
    weights = ONES.copy()
    weights[::2] = 1e-6
    heard, unheard = (
        agreement(fine_tune(encoder, TEXTS, lies, weights=w, start=blank(), settings=FAST, seed=0), encoder)
        for w in (ONES, weights)
    )
    assert unheard > heard + 0.1


def test_rates_climb_for_a_tenth_and_fall_to_two_percent() -> None:
    rates = [_schedule(step, 100) for step in range(100)]
    assert rates[9] == 1.0 == max(rates)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.02)
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
