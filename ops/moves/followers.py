"""Which gateways there are and what each serves: by heartbeats, and by asking the one of this machine itself.

A gateway that runs here and does not answer is one that has confirmed nothing, whatever else is heard.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from ops.checks.probe import ask_process
from ops.moves.operator import Followers
from ops.site import Site
from ops.state.run_files import read_run_file
from store.control import LIVE_S
from store.errors import StoreUnavailableError
from store.event import Lane

_ANSWER_S: Final = 0.5  # of Redis: a rollback asks, and has five seconds
_PROBE_S: Final = 1.0


def followers(site: Site, lane: Lane) -> Followers:
    """Ask for every gateway of a lane."""
    heard: dict[str, str | None] = {}
    redis_answered = True
    try:
        with site.control(answer_s=_ANSWER_S) as control:
            heard = {name: beat.version for name, beat in control.heartbeats(lane, within_s=LIVE_S).items()}
    except StoreUnavailableError:
        redis_answered = False
    here = _here(site)
    if here is None and site.replica not in heard:
        return Followers(serves=heard, silent=frozenset({site.replica}), redis_answered=redis_answered)
    return Followers(serves=heard | dict((here or {}).get(str(lane), {})), redis_answered=redis_answered)


def _here(site: Site) -> Mapping[str, Mapping[str, str | None]] | None:
    """What this machine's gateway serves, by lane and replica: empty where none runs, None where it does not answer."""
    record = read_run_file(site.run_directory, "serve")
    if record is None:
        return {}
    answer = ask_process(site, record, "/lanes", timeout_s=_PROBE_S)
    try:
        return msgspec.json.decode(answer[1], type=dict[str, dict[str, str | None]]) if answer else None
    except msgspec.MsgspecError:
        return None
