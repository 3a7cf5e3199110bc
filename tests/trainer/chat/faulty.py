"""A rank of a training with a fault, which a file beside the lane's folder names."""

import json
from pathlib import Path

import torch
from torch import Tensor

from trainer.launch.rank import Tell
from trainer.learn.chat.training import ranked
from trainer.learn.chat.training.gradients import Part, StepLoss
from trainer.learn.chat.training.ranked import Orders

FAULT = "fault.json"
WHO = 1  # of two ranks

_forward = StepLoss.forward


def work(place: Path, tell: Tell) -> None:
    """As `ranked.work`, with the fault of the second rank."""
    folder = Path(Orders.read(place).folder)
    fault = json.loads((folder / FAULT).read_text()) if (folder / FAULT).exists() else {}
    (folder / "asked").open("a").write(f"{Orders.read(place).rows} ")
    calls = 0

    def faulty(self: StepLoss, part: Part) -> Tensor:
        nonlocal calls
        calls += 1
        loss = _forward(self, part)
        if torch.distributed.get_rank() != WHO:
            return loss
        if calls > fault.get("sane", calls):
            return loss * float("nan")
        if len(part.places) > fault.get("most", len(part.places)):
            message = "of the device"
            raise torch.OutOfMemoryError(message)
        return loss

    StepLoss.forward = faulty  # type: ignore[method-assign]
    ranked.work(place, tell)
