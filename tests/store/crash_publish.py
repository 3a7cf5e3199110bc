"""Kills itself at the n-th file system call of a publish or an append, for every n: `python -m … KIND FOLDER`.

Each n has its own copy of `FOLDER/start` at `FOLDER/<n>`; prints how many there are. The last one was not killed.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store.registry.registry import Registry
from store.registry.signing import SigningKey, TrustedKeys
from tests.store.drafts import LANE, make_manifest

CALLS = ("open", "fsync", "link", "rename", "replace", "mkdir", "unlink", "close")


def publish(folder: Path) -> None:
    """Publish `folder/draft`."""
    key = SigningKey.load(folder / "keys" / "trainer")
    registry = Registry(folder / "registry", TrustedKeys.load(folder / "keys" / "trusted"))
    registry.versions(LANE).publish(folder / "draft", make_manifest(seed=2), key)


def append(folder: Path) -> None:
    """Append one move."""
    key = SigningKey.load(folder / "keys" / "trainer")
    moves = Registry(folder / "registry", TrustedKeys.load(folder / "keys" / "trusted")).moves(LANE)
    moves.append("promote", version="b" * 16, who="trainer", why="better", key=key, now_s=2.0)


def die_at(number: int) -> None:
    """Arrange for SIGKILL just before the `number`-th file system call from here on."""
    left = [number]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return run

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def main(kind: str, base: Path) -> int:
    """Fork one victim for each call until one survives."""
    number = 0
    while True:
        number += 1
        folder = base / str(number)
        shutil.copytree(base / "start", folder, copy_function=os.link)
        child = os.fork()
        if child == 0:
            die_at(number)
            {"publish": publish, "append": append}[kind](folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return number if os.waitstatus_to_exitcode(status) == 0 else 0


if __name__ == "__main__":
    print(main(sys.argv[1], Path(sys.argv[2])))  # noqa: T201 - its answer
