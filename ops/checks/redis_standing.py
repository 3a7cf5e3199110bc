"""Whether a Redis keeps what it is given: one that evicts is refused, one without an append-only file is warned of."""

from dataclasses import dataclass

import redis

from store.errors import SettingsError, StoreUnavailableError

_KEEPS = "noeviction"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisStanding:
    """What a server says of itself."""

    max_bytes: int  # 0: no limit
    policy: str
    append_only: bool

    @property
    def evicts(self) -> bool:
        """Whether it throws keys away when it is full."""
        return self.max_bytes > 0 and self.policy != _KEEPS

    @property
    def warnings(self) -> list[str]:
        """What an operator should change, a sentence each."""
        found = []
        if self.evicts:
            found.append(
                f"redis.url: this Redis evicts keys when it is full (maxmemory {self.max_bytes}, maxmemory-policy"
                f" {self.policy}): the buffer, the budget and the log would lose parts; set maxmemory-policy {_KEEPS}"
            )
        if not self.append_only:
            found.append(
                "redis.url: this Redis has no append-only file: what was acknowledged is lost when it ends; set"
                " appendonly yes"
            )
        return found


def standing_of(client: redis.Redis) -> RedisStanding:
    """Ask the server.

    Raises:
        StoreUnavailableError: it does not answer.
    """
    try:
        memory, persistence = client.info("memory"), client.info("persistence")
    except redis.RedisError as error:
        raise StoreUnavailableError(str(error)) from error
    return RedisStanding(
        max_bytes=int(memory.get("maxmemory", 0)),
        policy=str(memory.get("maxmemory_policy", _KEEPS)),
        append_only=bool(int(persistence.get("aof_enabled", 1))),
    )


def refuse_eviction(client: redis.Redis) -> list[str]:
    """What is to be warned of.

    Raises:
        SettingsError: it evicts.
        StoreUnavailableError: it does not answer.
    """
    standing = standing_of(client)
    if standing.evicts:
        raise SettingsError(standing.warnings[0])
    return standing.warnings
