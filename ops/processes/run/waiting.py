"""How a process waits for Redis and the log, with backoff, rather than give up."""

import threading
from collections.abc import Callable
from random import Random
from typing import Final, TypeVar

import redis

from ops.checks.redis_standing import refuse_eviction
from ops.site import Site
from store.errors import (
    LogUnavailableError,
    SettingsError,
    StateUnwritableError,
    StoreUnavailableError,
    UnderstudyError,
)
from store.log.lazy import logger
from store.retry.backoff import Backoff

_log = logger(__name__)
_BACKOFF: Final = Backoff(first_s=0.2, most_s=10.0)
_REDIS_LOOK_S: Final = 1.0

Opened = TypeVar("Opened")


def patiently(
    attempt: Callable[[], Opened], stop: threading.Event, tell: Callable[[UnderstudyError], None] = lambda _: None
) -> Opened | None:
    """What `attempt` gives, tried with backoff while Redis, the log or room is wanting; None when stopped before.

    `tell` hears of each attempt that failed.
    """
    failures, rng = 0, Random()  # noqa: S311 - jitter
    while not stop.is_set():
        try:
            return attempt()
        except (StateUnwritableError, StoreUnavailableError, LogUnavailableError) as error:
            failures += 1
            delay_s = round(_BACKOFF.delay_s(failures, rng), 1)
            _log.warning("waiting", why=str(error), again_in_s=delay_s)
            tell(error)
            stop.wait(delay_s)
    return None


def refuse_evicting(site: Site) -> None:
    """Refuse a Redis that evicts, where it answers; warn where it would lose what it has at its end.

    Raises:
        SettingsError: it evicts.
    """
    try:
        with site.redis_client(answer_s=_REDIS_LOOK_S) as client:
            _warn_of(refuse_eviction(client))
    except StoreUnavailableError:
        return  # nothing here waits for Redis: ingest and trainer look again once it answers


def keeps_all(client: redis.Redis) -> bool:
    """Whether Redis keeps what it is given: one that evicts is waited for, like one that is away.

    Somebody may have set it so hours after the start, and may set it right again.

    Raises:
        StoreUnavailableError: it evicts, or does not answer.
    """
    try:
        return _warn_of(refuse_eviction(client))
    except SettingsError as error:
        raise StoreUnavailableError(str(error)) from error


def _warn_of(warnings: list[str]) -> bool:
    for warning in warnings:
        _log.warning("redis", why=warning)
    return True
