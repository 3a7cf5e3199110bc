"""What ranks of the tests do: each reads from its job's folder what is to go wrong."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import distributed as dist

from trainer.launch.rank import OutOfMemoryError, Tell
from trainer.learn.chat.training.crew import joined

FAULT, STARTED = "fault", "started"
PATIENCE_S = 8.0


def told(folder: Path, fault: str) -> None:
    """Say what the ranks of a job are to do."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAULT).write_text(fault)


def work(folder: Path, tell: Tell) -> None:
    """Meet the other ranks a few times; the last of them does what the folder says."""
    fault = (folder / FAULT).read_text()
    with joined("ddp", device="cpu", timeout_s=PATIENCE_S) as crew:
        for step in range(3):
            total = torch.ones(1)
            dist.all_reduce(total)
            assert total.item() == crew.size
            tell(step / 3)
        (folder / f"{STARTED}-{crew.rank}").write_text(str(os.getpid()))
        if crew.rank == crew.size - 1:
            _fail(fault)
        elif fault == "all wait":
            _wait()
        dist.all_reduce(torch.ones(1))
        (folder / f"done-{crew.rank}").touch()


def _fail(fault: str) -> None:
    match fault:
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs" | "all wait":
            _wait()
        case "raises":
            message = "a shape does not fit"
            raise ValueError(message)
        case "memory":
            message = "8 rows at once do not fit"
            raise OutOfMemoryError(message)
        case _:
            return


def _wait() -> None:
    while True:
        time.sleep(0.1)
