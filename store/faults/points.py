"""Points with names at which a process dies at once, for tests that ask what is lost when it dies right there.

Nothing is armed unless a test, or the variable that `ops.settings` reads, says so; a point then costs one comparison.
"""

import os
import signal
from dataclasses import dataclass
from typing import Final

from store.errors import SettingsError

POINTS: Final = frozenset(
    {
        "spool.written",  # the frames are in the file, and not yet fsynced
        "spool.synced",  # they are on disk, and nobody was told
        "spool.resent",  # the log has taken them, and the spool does not know
        "spool.sent",  # a segment that was sent whole is about to be deleted
        "apply.read",  # a batch is prepared, and nothing of it is written
        "apply.buried",  # its dead letters are written, and nothing of it is applied
        "apply.applied",  # it is applied, and the log's group does not know
        "cycle.drafted",  # the version's files are written, and not published: in the cycle's own process
        "cycle.published",  # it is published, and the trainer does not know: in the cycle's own process
        "cycle.judged",  # the trainer has the verdict, and has made no move
        "cycle.moved",  # the move is made, and nothing is remembered of the cycle
        "swap.loaded",  # a version is loaded, and does not serve
        "swap.published",  # it serves, and that is written nowhere
    }
)


@dataclass(slots=True)
class _Armed:
    point: str
    left: int


_armed: _Armed | None = None


def arm(said: str | None) -> None:
    """Die at a point, as `apply.applied`, or when it is reached for the n-th time, as `apply.applied@3`; None: nowhere.

    Raises:
        SettingsError: there is no such point.
    """
    global _armed  # noqa: PLW0603 - a process dies as a whole
    point, _, times = (said or "").partition("@")
    if said and (point not in POINTS or not (times or "1").isdigit()):
        message = f"there is no fail point {said!r}; known are {', '.join(sorted(POINTS))}, each with @N or without"
        raise SettingsError(message)
    _armed = _Armed(point, int(times or 1)) if said else None


def armed() -> str | None:
    """What `arm` was told, as far as it has not happened: for a child that is to die in one's place."""
    return None if _armed is None else f"{_armed.point}@{_armed.left}"


def reach(point: str) -> None:
    """Be at a point: die by SIGKILL where it is armed."""
    if _armed is not None and _armed.point == point:
        _armed.left -= 1
        if _armed.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
