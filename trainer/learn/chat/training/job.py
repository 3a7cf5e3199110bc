"""A training as a value: all that its weights follow from, in memory and as files for other processes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from store.registry.manifest import canonical_json
from store.student.chat.adapter import Trained
from trainer.learn.aside import put
from trainer.learn.chat.training.cached import Lesson
from trainer.learn.chat.training.gradients import together
from trainer.learn.chat.training.losses import Heard

_JOB, _START = "job.safetensors", "start.safetensors"
_SAID = "said"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the top layers are trained."""

    layers: int | None = 6  # from the top; None: all of them
    rank: int | None = 16  # of the adapter; None: the layers in full
    alpha: int = 32
    epochs: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_rows: int = 8  # of all ranks together
    micro_rows: int = 8  # computed at once; halved where memory does not suffice
    distribution: float = 1.0  # weight of the KL to what the teacher said beside the cross-entropy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One training."""

    lessons: Sequence[Lesson]
    names: Sequence[str]  # what each begins with: see `families`
    start: Trained | None  # an earlier training of the same layers to go on from
    settings: Tuning
    seed: int  # of the batches and the first weights

    def digest(self, *more: object) -> str:
        """Hash of all of it, and of what else the weights follow from."""
        digest = hashlib.sha256()
        for lesson, name in zip(self.lessons, self.names, strict=True):
            digest.update(canonical_json([name, lesson.prompt, lesson.answer, lesson.weight]))
            digest.update(lesson.heard.ids.numpy().tobytes() + lesson.heard.logprobs.numpy().tobytes())
        for name, value in sorted(self.start.tensors.items()) if self.start is not None else ():
            digest.update(name.encode() + value.numpy().tobytes())
        parts = [*more, self.settings, self.seed, digest.hexdigest()]
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    def write(self, folder: Path) -> None:
        """Put it into a folder, for `read`."""
        heard = together([lesson.heard for lesson in self.lessons])
        said = {
            "names": list(self.names),
            "weights": [lesson.weight for lesson in self.lessons],
            "settings": asdict(self.settings),
            "seed": self.seed,
        }
        tensors = {
            **_ragged("prompts", [lesson.prompt for lesson in self.lessons]),
            **_ragged("answers", [lesson.answer for lesson in self.lessons]),
            "heard_ids": heard.ids,
            "heard_logprobs": heard.logprobs,
        }
        put(folder / _JOB, safetensors.torch.save(tensors, {_SAID: json.dumps(said)}))
        if self.start is not None:
            write_trained(folder / _START, self.start)

    @staticmethod
    def read(folder: Path) -> "Job":
        """What `write` has put there."""
        with safe_open(folder / _JOB, framework="pt") as file:
            said: dict[str, Any] = json.loads(file.metadata()[_SAID])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        prompts, answers = _rows("prompts", tensors), _rows("answers", tensors)
        lengths = [len(one) for one in answers]
        heard = zip(*(torch.split(tensors[name], lengths) for name in ("heard_ids", "heard_logprobs")), strict=True)
        rows = zip(prompts, answers, heard, said["weights"], strict=True)
        return Job(
            lessons=[
                Lesson(prompt=prompt, answer=answer, heard=Heard(ids=ids, logprobs=logprobs), weight=weight)
                for prompt, answer, (ids, logprobs), weight in rows
            ],
            names=said["names"],
            start=read_trained(folder / _START) if (folder / _START).exists() else None,
            settings=Tuning(**said["settings"]),
            seed=said["seed"],
        )


def write_trained(path: Path, trained: Trained) -> None:
    """Weights as a file between processes; a version holds them otherwise."""
    said = {"first": trained.first, "rank": trained.rank, "alpha": trained.alpha}
    tensors = {name: one.contiguous() for name, one in trained.tensors.items()}
    put(path, safetensors.torch.save(tensors, {_SAID: json.dumps(said)}))


def read_trained(path: Path) -> Trained:
    """What `write_trained` has written."""
    with safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()[_SAID])
        return Trained(tensors={name: file.get_tensor(name) for name in file.keys()}, **said)  # noqa: SIM118


def _ragged(name: str, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    return {
        name: torch.tensor([token for row in rows for token in row]),
        f"{name}_lengths": torch.tensor([len(row) for row in rows]),
    }


def _rows(name: str, tensors: dict[str, Tensor]) -> list[tuple[int, ...]]:
    lengths = tensors[f"{name}_lengths"].tolist()
    return [tuple(one.tolist()) for one in torch.split(tensors[name], lengths)]
