"""How the gateway and ingest make the log's topics, however long the log is away."""

import threading
from collections.abc import Callable

import redis

from ops.open_log import ensure_topics
from ops.processes.run.waiting import patiently
from ops.site import Site
from store.errors import UnderstudyError


def make_topics(
    site: Site, client: redis.Redis, stop: threading.Event, tell: Callable[[UnderstudyError], None] = lambda _: None
) -> bool:
    """Make the topics that are not there, however long the log is away; False when stopped before."""

    def make() -> bool:
        ensure_topics(site, client)
        return True

    return bool(patiently(make, stop, tell))
