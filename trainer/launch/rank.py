"""One rank: a process of a job, whose work is named by a function and a folder."""

import importlib
import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from trainer.launch.parents import follow
from trainer.learn.aside import put

Tell = Callable[[float], None]
Work = Callable[[Path, Tell], None]
"""Does a rank's share of what lies in a folder, and tells what share of it is done."""

Kind = Literal["failed", "memory", "alone"]

PROGRESS: Final = "progress"
_TELL_EVERY_S: Final = 0.25
_PEER_S: Final = 10.0  # a rank that another one has left waits so long to be ended: who died first is who is told of
_OF_PEERS: Final = ("gloo", "nccl", "connection closed by peer")


class OutOfMemoryError(Exception):
    """A rank's share of a step does not fit: all ranks are started anew, with less at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a rank failed."""

    kind: Kind  # alone: it waited for the others in vain
    summary: str
    traceback: str

    @staticmethod
    def path(folder: Path, rank: int) -> Path:
        """Where a rank writes it."""
        return folder / f"failed-{rank}.json"

    def write(self, folder: Path, rank: int) -> None:
        """Leave it for who has started the ranks."""
        put(self.path(folder, rank), json.dumps(asdict(self)).encode())

    @staticmethod
    def read(folder: Path, rank: int) -> "Failure | None":
        """What a rank has left; None: nothing, as of one that was killed."""
        try:
            return Failure(**json.loads(Failure.path(folder, rank).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


def run(parent: int, entry: str, folder: str, rank_of: Callable[[], int] | None = None) -> None:
    """What torchrun's agent starts.

    Args:
        parent: the agent's process; a rank ends with it.
        entry: `module:function`, a `Work`.
        folder: handed to it.
        rank_of: this process's rank; None: as torchrun tells it.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # what reaches the whole terminal; the agent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    follow(parent, lambda: os._exit(1))
    place = Path(folder)
    rank = _rank() if rank_of is None else rank_of()
    module, _, function = entry.partition(":")
    work: Work = getattr(importlib.import_module(module), function)
    try:
        work(place, _teller(place) if rank == 0 else lambda _: None)
    except Exception as error:
        kind = _kind(error)
        if kind == "alone":
            time.sleep(_PEER_S)
        Failure(kind=kind, summary=f"{type(error).__name__}: {error}", traceback=traceback.format_exc()).write(
            place, rank
        )
        raise


def _rank() -> int:
    return int(os.environ["RANK"])  # noqa: TID251 - torchrun tells it there


def _kind(error: Exception) -> Kind:
    if isinstance(error, OutOfMemoryError):
        return "memory"
    said = str(error).lower()
    return "alone" if isinstance(error, RuntimeError) and any(one in said for one in _OF_PEERS) else "failed"


def _teller(folder: Path) -> Tell:
    """Writes down how far the job is, a few times a second."""
    last = 0.0

    def tell(done: float) -> None:
        nonlocal last
        if (now_s := time.monotonic()) - last >= _TELL_EVERY_S:
            last = now_s
            put(folder / PROGRESS, str(done).encode())

    return tell
