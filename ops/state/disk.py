"""Does the disk of a folder take a write now? Asked before something is started that would die of a disk that does not.

A write is tried, because free space alone says nothing of quotas, limits and file systems that became read-only.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROBE_BYTES: Final = 1 << 18
_MIB: Final = 1 << 20


def refusal(folder: Path) -> str | None:
    """Why the folder's disk takes no write, with what is free of it; None where it takes one."""
    probe = folder / f".room-{secrets.token_hex(4)}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            left = memoryview(bytes(_PROBE_BYTES))
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"the disk of {folder} takes nothing: {error.strerror}; {_free(folder)}"
    finally:
        with suppress(OSError):
            probe.unlink()
    return None


def _free(folder: Path) -> str:
    for place in (folder, *folder.parents):
        with suppress(OSError):
            found = os.statvfs(place)
            return f"free {found.f_bavail * found.f_frsize / _MIB:.1f} MiB, {found.f_favail} files"
    return "free space unknown"
