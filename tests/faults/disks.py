"""A disk that a test fills and empties: a small file system of its own, else a limit on the files of the processes.

Either refuses writes as a full disk does: the first with ENOSPC, the second, where nothing may be mounted, with EFBIG.
"""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import psutil

_CHUNK: Final = bytes(1 << 16)
_NO_LIMIT: Final = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


class Disk(Protocol):
    """What holds the state directory."""

    def fill(self) -> None:
        """Leave no room."""

    def free(self) -> None:
        """Make room again."""


@dataclass(slots=True)
class SmallDisk:
    """A file system in memory."""

    root: Path

    def fill(self) -> None:
        """Write until nothing more fits, not even a byte."""
        with (self.root / "filler").open("ab", buffering=0) as file:
            for chunk in (_CHUNK, b"0"):
                with suppress(OSError):
                    while True:
                        file.write(chunk)

    def free(self) -> None:
        """Remove what filled it."""
        (self.root / "filler").unlink(missing_ok=True)


@dataclass(slots=True)
class LimitedFiles:
    """No file of these processes, nor of those that they start from now on, may grow."""

    processes: Callable[[], list[int]]
    limited: list[int] = field(default_factory=list)

    def fill(self) -> None:
        """Set the limit; the hard one stays, so that it can be lifted."""
        self.limited = self.processes()
        for pid in self.limited:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def free(self) -> None:
        """Lift it, for what was started meanwhile too."""
        for pid in {*self.limited, *self.processes()}:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, _NO_LIMIT)


@contextmanager
def small_disk(root: Path, mib: int) -> Iterator[Disk]:
    """A disk at `root` that holds so much."""
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0777", "tmpfs", root], capture_output=True, check=False
    )
    if mounted.returncode:
        yield LimitedFiles(lambda: [child.pid for child in psutil.Process(os.getpid()).children(recursive=True)])
        return
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "-l", root], check=True)
