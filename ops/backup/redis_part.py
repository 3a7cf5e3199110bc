"""Redis' part of a backup: which keys are copied, and what is left for the log to bring back."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import redis

from ops.backup.records import RedisMode
from ops.exits import RefusedError
from ops.open_log import open_history
from ops.repair.rebuild import reaches_back
from ops.settings import Settings
from ops.site import REDIS_RUN_NAME, Site
from ops.state.run_files import read_run_file
from store.buffer.connect import connect
from store.buffer.ledger import BEGINNING
from store.buffer.server import private_redis
from store.copies.records import Key
from stream.log import dead_topic_of, topic_of

_ANSWER_S: Final = 60.0  # of Redis, to one step over all there is
_STAGED: Final = ":rebuild:"
_FROM_THE_LOG: Final = ("item:", "stratum:", "strata$", "counters$", "audits$", "damaged$")
_POSITION: Final = re.compile(rb"\{[a-z0-9_-]+\}:pos:(.+):([0-9]+)")


@contextmanager
def redis_of(site: Site) -> Iterator[tuple[Site, redis.Redis]]:
    """A site whose Redis answers, and a client of it: a private one that nobody runs is started for the while.

    Raises:
        StoreUnavailableError: it does not answer, or the private one cannot be started.
    """
    with ExitStack() as stack:
        url = site.settings.redis.url
        if not url:
            found = read_run_file(site.run_directory, REDIS_RUN_NAME)
            url = (found.url if found else None) or stack.enter_context(
                private_redis(site.settings.state_dir / REDIS_RUN_NAME)
            )
        client = stack.enter_context(connect(url, answer_s=_ANSWER_S))
        yield Site(with_redis(site.settings, url)), client


def with_redis(settings: Settings, url: str) -> Settings:
    """The same settings with Redis at an address."""
    return settings.model_copy(update={"redis": settings.redis.model_copy(update={"url": url})})


def patterns_of(use_cases: list[str], log: str) -> list[str]:
    """Patterns of all our keys; those of the embedded log are among them."""
    found = [f"{{{use_case}}}:*" for use_case in use_cases]
    if log == "embedded":
        found += [f"log:{{{topic(use_case)}}}*" for use_case in use_cases for topic in (topic_of, dead_topic_of)]
    return found


def early_of(use_cases: list[str], mode: RedisMode) -> list[str]:
    """Patterns of the items, which are nearly all of it."""
    return [f"{{{use_case}}}:*:item:*" for use_case in use_cases] if mode == "dump" else []


def left_out(use_cases: list[str], mode: RedisMode) -> list[str]:
    """Lua patterns of what is not copied: what a rebuild was at, and, for a replay, all that it works out anew."""
    left = [_STAGED]
    if mode == "replay":
        for use_case in use_cases:
            begins = "^" + re.escape(f"{{{use_case}}}").replace("\\", "%") + ":[^:]*:"
            left += [begins + name for name in _FROM_THE_LOG]
    return left


def need_whole_log(site: Site, client: redis.Redis) -> None:
    """See that the log can bring the buffer back.

    Raises:
        RefusedError: it no longer holds its beginning.
        LogUnavailableError: it did not answer.
    """
    with open_history(site, client) as history:
        for use_case in site.use_cases:
            if not reaches_back(use_case, history, site.buffer(client), client):
                message = (
                    f"--redis replay: the log of {use_case} no longer holds all that was applied, so that nothing could"
                    " bring the buffer back: use --redis dump"
                )
                raise RefusedError(message)


def position_of(key: Key) -> tuple[str, str] | None:
    """Of the hash of a slot, its name as manifests of versions have it, and how far it was applied."""
    found = _POSITION.fullmatch(key.name)
    if found is None or key.kind != "hash":
        return None
    return f"{found[1].decode()}/{found[2].decode()}", key.fields.get(b"next", BEGINNING.encode()).decode()
