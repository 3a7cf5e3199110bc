"""How far a training has come, on disk: killed at any point, it goes on from there to the same weights.

A checkpoint belongs to one job: other rows, another base or other settings begin anew. Batches and first weights follow
from the seed, so the step, the weights and the optimiser's moments are all that there is to keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainer.learn.aside import put, sweep
from trainer.learn.chat.training.crew import part_like, whole

_WEIGHT, _MEAN, _SQUARE = "weight", "mean", "square"
_JOB, _STEP, _ROWS = "job", "step", "rows"


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

    def save(self, reached: Reached, parameters: Sequence[Tensor], optimiser: Any, *, writes: bool = True) -> None:
        """A crash leaves the one before, or this one. Every rank calls it, and one of them writes."""
        tensors = {}
        for place, parameter in enumerate(parameters):
            moments = optimiser.state[parameter]
            kept = {_WEIGHT: parameter.detach(), _MEAN: moments["exp_avg"], _SQUARE: moments["exp_avg_sq"]}
            for name, one in kept.items():
                full = whole(one)
                if writes:
                    tensors[f"{place}.{name}"] = full.cpu().contiguous()
        if writes:
            told = {_JOB: self.job, _STEP: str(reached.step), _ROWS: str(reached.rows)}
            put(self.path, safetensors.torch.save(tensors, told))

    def load(self, parameters: Sequence[Tensor], optimiser: Any) -> Reached | None:
        """Bring weights and moments to where the job stood; None, and nothing changed, where there is nothing of it."""
        sweep(self.path.parent, older_s=0.0)  # of writers that were killed: a lane has one trainer at a time
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
                parameter.copy_(part_like(found[f"{place}.{_WEIGHT}"], parameter))
                optimiser.state[parameter] = {
                    "step": torch.tensor(float(reached.step), device=parameter.device),
                    "exp_avg": part_like(found[f"{place}.{_MEAN}"], parameter),
                    "exp_avg_sq": part_like(found[f"{place}.{_SQUARE}"], parameter),
                }
        return reached
