"""What an installation keeps is for its owner alone: new files by the umask, older ones by taking rights away."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from store.log.lazy import logger

_log = logger(__name__)
_UMASK: Final = 0o077
_OTHERS: Final = 0o077
_OURS: Final = (
    "cache",
    "redis",
    "registry",
    "reports",
    "run",
    "spool",
)  # of state_dir; what else lies there is not ours


def write_for_owner_alone() -> None:
    """From now on this process, and what it starts, makes files that nobody else may read, whatever the umask was."""
    os.umask(_UMASK)


def tighten(state_dir: Path) -> None:
    """Take away what group and others may do with what an earlier release, or another umask, left in `state_dir`.

    What belongs to somebody else is left as it is, and said.
    """
    found = [state_dir] if not _is_shared(state_dir) else []
    for name in _OURS:
        place = state_dir / name
        if not place.is_symlink():
            found.append(place)
            for folder, folders, files in os.walk(place):
                found += [Path(folder) / inner for inner in (*folders, *files)]
    refused = sum(not _take_away(path) for path in found)
    if refused:
        _log.warning("files_readable_by_others", folder=str(state_dir), files=refused, why="they are somebody else's")


def _is_shared(folder: Path) -> bool:
    """Whether others have business there: /tmp, or the root of the file system."""
    with suppress(OSError):
        return bool(folder.stat().st_mode & stat.S_ISVTX) or folder.resolve().parent == folder.resolve()
    return True


def _take_away(path: Path) -> bool:
    """Whether nobody else can use it now; a link is not followed, and what is gone meanwhile is nobody's."""
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & _OTHERS:
            path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
