"""How the answers of an installation's lanes stand: for `status`, for the commands, and in the log of each process."""

import threading
import time
from typing import Final

import redis

from ops.answers.reading import Reading
from ops.sections import LaneSection
from ops.site import Site
from store.answers.census import Census, present_census, tell
from store.control import Control
from store.errors import StoreUnavailableError, UnderstudyError
from store.event import wall_clock_s
from store.log.lazy import logger

_log = logger(__name__)
_AGAIN_S: Final = 2.0
_PAUSE_S: Final = 0.001  # now and then


def census_of(site: Site, client: redis.Redis, section: LaneSection) -> Census:
    """How a lane's answers are read now.

    Raises:
        StoreUnavailableError: Redis does not answer.
        RegistryError, SettingsError: the rulings do not verify, or there are no trusted keys.
    """
    drawing = Reading.of(section).drawing(site, client, wall_clock_s())
    return present_census(section.lane, drawing, buffer=site.buffer(client), control=Control(client), alive=_make_room)


def _make_room() -> None:
    """Let the process' other threads work: of a hundred thousand items a count takes seconds."""
    time.sleep(_PAUSE_S)


def tell_at_start(site: Site, stop: threading.Event) -> threading.Thread:
    """Say in the log how every lane's answers stand, beside the process' own work and once Redis answers."""

    def run() -> None:
        for section in site.settings.lanes:
            while not stop.is_set():
                try:
                    with site.redis_client() as client:
                        tell(section.lane, census_of(site, client, section))
                except StoreUnavailableError:
                    stop.wait(_AGAIN_S)
                    continue
                except (UnderstudyError, OSError) as error:
                    _log.error("how the answers are read cannot be told", lane=str(section.lane), why=str(error))
                break

    thread = threading.Thread(target=run, name="answers", daemon=True)
    thread.start()
    return thread
