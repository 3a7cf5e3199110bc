"""Files of what can be made again, written aside, flushed and renamed: a crash leaves the one before, or a whole one.

Several processes may write the same file: each has a file of its own aside, and the last one that renames it wins.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from store.event import wall_clock_s
from store.registry.files.durable import write_new

_ASIDE: Final = ".tmp"
ABANDONED_S: Final = 3600.0  # nothing takes so long to write: its writer was killed


def put(path: Path, data: bytes) -> None:
    """Make a file, or take the place of the one that is there; its folder is made where it is missing.

    Raises:
        OSError: it could not be written; what was there is as it was, and nothing is left aside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}{_ASIDE}")
    aside.unlink(missing_ok=True)  # of a process that had this number before
    try:
        write_new(aside, data, mode=0o644)
        os.replace(aside, path)  # noqa: PTH105 - atomic on every file system that matters
    except BaseException:  # a full disk must not keep a half of it
        with suppress(OSError):
            aside.unlink()
        raise


def sweep(folder: Path, *, older_s: float = ABANDONED_S) -> None:
    """Remove what killed writers have left in a folder.

    Args:
        folder: where.
        older_s: what is younger may have a writer that lives; 0 where there is none.
    """
    for path in folder.glob(f"*{_ASIDE}"):
        with suppress(FileNotFoundError):  # its writer lives, and has just given it its name
            if wall_clock_s() - path.stat().st_mtime >= older_s:
                path.unlink()
