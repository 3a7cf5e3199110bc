"""The two trainings that `tests.bench.training` compares: ours, and `transformers.Trainer` at its defaults."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from store.student.encoder import FloatArray
from store.student.tuned import Tuned
from trainer.learn.classify.fine_tune import FineTuneSettings, fine_tune
from trainer.learn.classify.probe import probe
from trainer.learn.classify.temper import fit_temperature
from trainer.learn.features import BaseEncoder

_BATCH_ROWS: Final = 32  # of the Trainer's network when it is judged
_TEMPERATURE_EVERY: Final = 3

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Texts with the teacher's answers as places in the label map."""

    texts: list[str]
    answers: IntArray

    def part(self, index: IntArray) -> "Rows":
        """The rows at these places, in this order."""
        return Rows(texts=[self.texts[i] for i in index], answers=self.answers[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What both sides learn and are judged on."""

    base: BaseEncoder
    labels: list[str]
    train: Rows
    held_out: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One whole training, timed, and how its network did on the held-out rows."""

    epochs: int
    seconds: float
    cpu_seconds: float
    rows_seen: int  # training rows times epochs
    loss: float  # on held-out rows, at a temperature
    raw_loss: float  # at none
    agreement: float  # share of held-out rows answered as the teacher did
    member: Tuned | None = None  # our network

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows_seen / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Rows a CPU-second: hardly moved by what else runs here."""
        return self.rows_seen / self.cpu_seconds


def our_run(task: Task, epochs: int, seed: int) -> Run:
    """Our fine-tuning as a fit does it, from texts to a member: the embedding and the probe count too."""
    encoder, train = task.base.encoder, task.train
    targets = np.eye(len(task.labels), dtype=np.float32)[train.answers]
    with timed() as clock:
        states = encoder.features(train.texts)[:, -encoder.hidden_size :]
        weights = np.ones(len(targets), dtype=np.float32)
        member = fine_tune(
            encoder,
            train.texts,
            targets,
            weights=weights,
            start=probe(states, targets, weights),
            settings=replace(FineTuneSettings(), epochs=epochs),
            seed=seed,
        )
    logits = member.logits(encoder.tokenise(task.held_out.texts))
    return replace(_judged(logits, task, epochs, clock), member=member)


def trainer_run(task: Task, epochs: int, seed: int) -> Run:
    """`transformers.Trainer` at its defaults, from texts to a trained network; only its printing and saving are off."""
    torch.manual_seed(seed)  # of the new classifier
    network = AutoModelForSequenceClassification.from_pretrained(task.base.directory, num_labels=len(task.labels))
    tokenizer = AutoTokenizer.from_pretrained(task.base.directory)
    longest, on_cpu = task.base.encoder.max_tokens, task.base.encoder.device.type == "cpu"
    with tempfile.TemporaryDirectory() as folder, timed() as clock:
        found = tokenizer(task.train.texts, truncation=True, max_length=longest)
        rows = [
            {"labels": int(answer), **{name: values[i] for name, values in found.items()}}
            for i, answer in enumerate(task.train.answers)
        ]
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=on_cpu,
            dataloader_pin_memory=not on_cpu,
        )
        trainer = Trainer(
            model=network,
            args=settings,
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return _judged(_trainer_logits(network, tokenizer, task.held_out.texts, longest), task, epochs, clock)


def log_loss(logits: FloatArray, answers: IntArray) -> float:
    """Mean cross-entropy against the answers, in nats; 0 iff each answer has all the probability.

    Args:
        logits: [n, labels].
        answers: [n].
    """
    return float(functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(answers)))


@dataclass(slots=True)
class Clock:
    """Seconds by the wall clock, and of this process's CPU time."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def timed() -> Iterator[Clock]:
    """Times its block."""
    clock = Clock()
    wall, cpu = time.perf_counter(), time.process_time()
    yield clock
    clock.wall_s, clock.cpu_s = time.perf_counter() - wall, time.process_time() - cpu


def _trainer_logits(network: Any, tokenizer: Any, texts: list[str], longest: int) -> FloatArray:
    """The Trainer's network on these texts: [n, labels]."""
    network.eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    result = np.empty((len(texts), network.config.num_labels), dtype=np.float32)
    for start in range(0, len(order), _BATCH_ROWS):
        index = order[start : start + _BATCH_ROWS]
        part = [texts[i] for i in index]
        batch = tokenizer(part, truncation=True, max_length=longest, padding=True, return_tensors="pt")
        with torch.inference_mode():
            result[index] = network(**batch.to(network.device)).logits.float().cpu().numpy()
    return result


def _judged(logits: FloatArray, task: Task, epochs: int, clock: Clock) -> Run:
    """A run with its scores on the held-out rows, [n, labels]; every third of them sets the temperature of its loss."""
    answers = task.held_out.answers
    probs = torch.softmax(torch.from_numpy(logits), dim=-1).numpy()
    fitted = np.arange(len(answers)) % _TEMPERATURE_EVERY == 0
    temperature = fit_temperature(probs[fitted], answers[fitted], np.ones(int(fitted.sum())))
    return Run(
        epochs=epochs,
        seconds=clock.wall_s,
        cpu_seconds=clock.cpu_s,
        rows_seen=len(task.train.texts) * epochs,
        raw_loss=log_loss(logits, answers),
        loss=log_loss((logits[~fitted] / temperature).astype(np.float32), answers[~fitted]),
        agreement=float((logits.argmax(axis=1) == answers).mean()),
    )
