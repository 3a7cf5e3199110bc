"""How far a training has come, on disk: killed at any point, it goes on from there to the same weights.

A checkpoint belongs to one job: other rows, another base or other settings begin anew. Batches and first weights follow
from the seed, so the step, the weights and the optimiser's moments are all that there is to keep.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_WEIGHT, _MEAN, _SQUARE = "weight", "mean", "square"
_JOB, _STEP, _ROWS = "job", "step", "rows"
_ASIDE: Final = ".tmp"


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a training stands."""

    step: int  # optimiser updates done
    rows: int  # of a micro-batch: memory has allowed so many


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One job's file."""

    path: Path
    job: str  # hash of all that the result follows from

    def save(self, reached: Reached, parameters: Sequence[Tensor], optimiser: Any) -> None:
        """Write it aside, flush it and rename it: a crash leaves the one before, or this one."""
        tensors = {}
        for place, parameter in enumerate(parameters):
            moments = optimiser.state[parameter]
            tensors[f"{place}.{_WEIGHT}"] = parameter.detach()
            tensors[f"{place}.{_MEAN}"] = moments["exp_avg"]
            tensors[f"{place}.{_SQUARE}"] = moments["exp_avg_sq"]
        told = {_JOB: self.job, _STEP: str(reached.step), _ROWS: str(reached.rows)}
        data = safetensors.torch.save({name: one.contiguous() for name, one in tensors.items()}, told)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(f".{os.getpid()}{_ASIDE}")
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)  # noqa: PTH105 - atomic on every file system that matters
        except BaseException:  # a full disk must not keep a half of it
            with suppress(OSError):
                aside.unlink()
            raise

    def load(self, parameters: Sequence[Tensor], optimiser: Any) -> Reached | None:
        """Bring weights and moments to where the job stood; None, and nothing changed, where there is nothing of it."""
        for left in self.path.parent.glob(f"{self.path.stem}.*{_ASIDE}"):
            left.unlink(missing_ok=True)  # of a writer that was killed: a lane has one trainer at a time
        try:
            with safe_open(self.path, framework="pt") as file:
                told = file.metadata()
                if told.get(_JOB) != self.job:
                    return None
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            reached = Reached(int(told[_STEP]), int(told[_ROWS]))
            shapes = [found[f"{place}.{_WEIGHT}"].shape for place in range(len(parameters))]
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        if shapes != [one.shape for one in parameters]:
            return None
        with torch.no_grad():
            for place, parameter in enumerate(parameters):
                parameter.copy_(found[f"{place}.{_WEIGHT}"])
                optimiser.state[parameter] = {
                    "step": torch.tensor(float(reached.step), device=parameter.device),
                    "exp_avg": found[f"{place}.{_MEAN}"].to(parameter.device),
                    "exp_avg_sq": found[f"{place}.{_SQUARE}"].to(parameter.device),
                }
        return reached

    def clear(self) -> None:
        """Remove it: the job is done."""
        self.path.unlink(missing_ok=True)
