"""How many files a process may have open, and how many of them the gateway's connections may take."""

import resource
from typing import Final

from ops.processes.admin import MOST_AT_ONCE
from store.log.lazy import logger

_log = logger(__name__)
_MOST_FILES: Final = 65_536
_OWN_FILES: Final = 128  # Redis, the log, the spool, versions while they load, connections on their way in or out
_MOST_CONNECTIONS: Final = 4096
_FEWEST_CONNECTIONS: Final = 16


def raise_file_limit() -> int:
    """Raise the limit on open files as far as it may be, to 65,536 at most; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        _log.warning("file_limit_not_raised", limit=soft, wanted=wanted, error=str(error))
        return soft
    return wanted


def connection_limit(files: int, teacher_calls: int) -> int:
    """How many connections the gateway may have open, so that files are left for everything else.

    Args:
        files: that the process may have open.
        teacher_calls: that may be in flight, each with a connection of its own.
    """
    left = files - _OWN_FILES - MOST_AT_ONCE - teacher_calls
    if left < _FEWEST_CONNECTIONS:
        _log.warning("file_limit_low", files=files, connections=_FEWEST_CONNECTIONS, wanted="LimitNOFILE=65536")
    return max(_FEWEST_CONNECTIONS, min(left, _MOST_CONNECTIONS))
