"""Starts a job's ranks, says how far they are, and leaves none behind, whatever ends the job."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psutil

from store.errors import UnderstudyError
from trainer.launch.agent import ENDED, conduct
from trainer.launch.rank import PROGRESS, Failure, OutOfMemoryError

_LOOK_S: Final = 0.2
_END_S: Final = 3.0  # for ranks to end when they are told to; then they are killed


class RankFailedError(UnderstudyError):
    """A rank died, hung or raised, and all were ended. The next cycle goes on from the last checkpoint."""


def launch(entry: str, folder: Path, *, ranks: int, told: Callable[[float], None] = lambda _: None) -> None:
    """Run a job to its end on ranks of this machine.

    Args:
        entry: `module:function`, a `trainer.launch.rank.Work`; imported by the ranks alone.
        folder: the job's own; what the ranks share.
        ranks: how many.
        told: what share is done, as rank 0 says it.

    Raises:
        OutOfMemoryError: a rank had too little memory.
        RankFailedError: one failed otherwise; the message says which, and how.
    """
    agent = multiprocessing.get_context("spawn").Process(
        target=conduct, args=(os.getpid(), ranks, entry, str(folder)), name="ranks"
    )
    with _ended(agent):
        agent.start()
        while agent.is_alive():
            agent.join(_LOOK_S)
            with suppress(OSError, ValueError):
                told(float((folder / PROGRESS).read_text()))
    if agent.exitcode != 0:
        raise _failure(folder, ranks, agent.exitcode)


def _failure(folder: Path, ranks: int, code: int | None) -> Exception:
    known = {rank: found for rank in range(ranks) if (found := Failure.read(folder, rank)) is not None}
    short = next((one for one in known.values() if one.kind == "memory"), None)
    if short is not None:
        return OutOfMemoryError(short.summary)
    try:
        first, exit_code = json.loads((folder / ENDED).read_bytes())
    except (OSError, ValueError):
        return RankFailedError(f"the process that started the {ranks} ranks died (exit code {code})")
    if first not in known:
        return RankFailedError(f"rank {first} of {ranks} died (exit code {exit_code}); the others were ended")
    found = known[first]
    if found.kind == "alone":
        return RankFailedError(f"rank {first} of {ranks} waited for the others in vain: {found.summary}")
    return RankFailedError(f"rank {first} of {ranks} failed: {found.summary}\n{found.traceback}")


@contextmanager
def _ended(agent: Any) -> Iterator[None]:
    """Sees that no process of the job outlives it; who tells this process to end ends them first."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    is_main = threading.current_thread() is threading.main_thread()  # no other may say what a signal does
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is being done
        _end(agent)
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _end(agent: Any) -> None:
    if agent.pid is None:
        return
    left = []
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(agent.pid)
        left = [process, *process.children(recursive=True)]
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.terminate()
    deadline_s = time.monotonic() + _END_S
    agent.join(_END_S)
    _, alive = psutil.wait_procs(left, timeout=max(0.0, deadline_s - time.monotonic()))
    for one in alive:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    agent.join()
