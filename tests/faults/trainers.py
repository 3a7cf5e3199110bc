"""Real trainers, one after the other, each a fork of a process that has imported torch once: `python -m … SETTINGS`.

Each line of its input is a point at which the next trainer dies, or empty: then that one ends in order as soon as
nothing is asked of it. For each line it prints how the trainer ended: 0, or minus the number of the signal. Its cycles
run in its own process, so that a death in the middle of a fit is a death of both; `understudy run train` has a child
for them.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import structlog  # noqa: F401 - the log imports it with its first line
import torch

import trainer.cycle
from ops.wiring import train as wiring
from store.control import Control
from store.faults.points import arm
from tests.ops.sites import open_site
from trainer.daemon.queues import DeviceQueues
from trainer.learn.features import BaseEncoder
from trainer.schedule import Trainer

_LOOK_S = 0.02


class Here:
    """Satisfies what the schedule needs of a `Worker`, without a process of its own."""

    def run(self, work: Any, *, tick: Callable[[], None], told: Callable[..., None], **_: Any) -> Any:
        tick()
        return trainer.cycle.work_on(work, told)

    def warm(self) -> None:
        """There is nothing to start."""

    def close(self) -> None:
        """Nor to end."""


def serve(path: Path, point: str) -> None:
    """Be a trainer until there is nothing left to do."""
    arm(point or None)
    site = open_site(path)
    with site.redis_client() as client:
        made = wiring.trainer(site, client, f"trainer-{os.getpid()}")
        made.queues = DeviceQueues(Here)  # type: ignore[arg-type] # as far as it is needed
        stop = threading.Event()
        threading.Thread(target=_end, args=(made, client, stop), daemon=True).start()
        made.run(stop)


def _end(made: Trainer, client: redis.Redis, stop: threading.Event) -> None:
    control, lanes = Control(client), [training.lane for training in made.lanes]

    def at_rest() -> bool:
        return all(control.next_cycle_request(lane) is None and control.ending(lane) is None for lane in lanes)

    while not at_rest() or made.trouble() is not None:
        stop.wait(_LOOK_S)
    stop.set()


def import_all(path: Path) -> None:
    """Load an encoder of the installation's kind: what that imports, no fork imports again."""
    torch.set_num_threads(1)
    section = open_site(path).settings.trainer
    BaseEncoder.open(
        str(section.encoder), device=section.device, precision=section.precision, max_tokens=section.max_tokens
    )


if __name__ == "__main__":
    settings = Path(sys.argv[1])
    import_all(settings)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            serve(settings, line.strip())
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201 - its answer
