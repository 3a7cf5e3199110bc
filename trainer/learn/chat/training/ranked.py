"""A rank's share of a training: what `trainer.launch` runs in each process."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from store.student.chat.decoder import Decoder
from trainer.launch.rank import Tell
from trainer.learn.aside import put
from trainer.learn.chat.training.crew import Strategy, joined
from trainer.learn.chat.training.job import Job, write_trained
from trainer.learn.chat.training.loop import train

RESULT: Final = "trained.safetensors"
_ORDERS: Final = "orders.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What all ranks of a job are told beside the job."""

    directory: str  # of the base
    device: str
    precision: Literal["fp32", "bf16"]
    threads: int
    strategy: Strategy
    patience_s: float
    digest: str
    rows: int  # computed at once by a rank, at most
    folder: str  # the lane's own
    part: str

    def write(self, place: Path) -> None:
        """Put them into a job's folder."""
        put(place / _ORDERS, json.dumps(asdict(self)).encode())

    @staticmethod
    def read(place: Path) -> "Orders":
        """What `write` has put there."""
        return Orders(**json.loads((place / _ORDERS).read_bytes()))


def work(place: Path, tell: Tell) -> None:
    """Train, and leave the weights where who started the ranks looks for them.

    Args:
        place: the job's folder.
        tell: what share is done.
    """
    orders, job = Orders.read(place), Job.read(place)
    torch.set_num_threads(orders.threads)
    with joined(orders.strategy, device=orders.device, timeout_s=orders.patience_s) as crew:
        whole = orders.strategy == "ddp"  # else each rank takes its share of the layers from the file
        base = Decoder.load(
            Path(orders.directory),
            device=str(crew.device) if whole and crew.device is not None else "cpu",
            precision=orders.precision,
        )
        trained = train(
            base,
            job,
            digest=orders.digest,
            crew=crew,
            rows=orders.rows,
            folder=Path(orders.folder),
            part=orders.part,
            progress=tell,
        )
        if crew.rank == 0:
            write_trained(place / RESULT, trained)
