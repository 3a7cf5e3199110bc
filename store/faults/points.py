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
        "swap.loaded",  # a version is loaded, and does not serve
        "swap.published",  # it serves, and that is written nowhere
        "cycle.leased",  # the lane is this trainer's, and nothing is begun
        "cycle.frozen",  # its rows are drawn and embedded
        "cycle.fitted",  # a challenger is fitted and judged, and nothing of it is written
        "cycle.drafted",  # its files lie in the draft's folder
        "cycle.published",  # it is a version, and its verdict stands in no move
        "cycle.judged",  # the daemon has the verdict
        "cycle.noted",  # what it comes to is noted, and no move says so
        "cycle.moved",  # champion and anchor are moved, or it is declined, and nobody was told
        "cycle.written",  # a line of the cycle log says so
        "cycle.told",  # Redis, too, and the schedule does not remember it
        "cycle.remembered",  # the schedule does, and the request for it still waits
        "cycle.answered",  # the request is answered, and the note still there
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
    """What `arm` is to be told in a process that this one starts."""
    return None if _armed is None else f"{_armed.point}@{_armed.left}"


def reach(point: str) -> None:
    """Be at a point: die by SIGKILL where it is armed."""
    if _armed is not None and _armed.point == point:
        _armed.left -= 1
        if _armed.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
