"""The process between a cycle and its ranks: torchrun's agent, which ends all ranks when one of them fails."""

import json
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Final

from trainer.launch import rank
from trainer.launch.parents import follow
from trainer.learn.aside import put

ENDED: Final = "ended.json"
_LOOPBACK: Final = {  # ranks of one machine speak to nobody else
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}
_LOOK_S: Final = 0.1


def conduct(parent: int, ranks: int, entry: str, folder: str) -> None:
    """Run so many ranks of a job; the exit code is 0 if all came to their end.

    Args:
        parent: the cycle's process; all ends with it.
        ranks: how many processes.
        entry: see `rank.run`.
        folder: see `rank.run`; in it is written which rank failed first.
    """
    follow(parent, lambda: os.kill(os.getpid(), signal.SIGTERM))
    os.environ.update(_LOOPBACK)  # noqa: TID251 - the libraries below read it there alone
    from torch.distributed.elastic.multiprocessing import SignalException  # noqa: PLC0415 - seconds: a kill is seen
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=secrets.token_hex(8),
        rdzv_backend="c10d",
        rdzv_endpoint=str(Path(folder) / "agents"),
        rdzv_configs={"store_type": "file"},
        max_restarts=0,
        monitor_interval=_LOOK_S,
        start_method="spawn",
        local_addr="127.0.0.1",
    )
    try:
        elastic_launch(config, rank.run)(os.getpid(), entry, folder)
    except ChildFailedError as error:
        first, failure = error.get_first_failure()
        put(Path(folder) / ENDED, json.dumps([int(first), failure.exitcode]).encode())
        sys.exit(1)
    except SignalException:
        sys.exit(128 + signal.SIGTERM)
