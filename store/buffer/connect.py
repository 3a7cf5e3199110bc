"""Connections to Redis that follow a failover: one that has led to a replica, or to a server on its way up, is dropped.

A failover may leave the old primary alive as a replica. A connection that is kept to it answers READONLY for ever, so
all of them are closed and the next command asks the address (DNS, a proxy) anew.
"""

from typing import TYPE_CHECKING, Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_CONNECT_S: Final = 2.0
_ELSEWHERE: Final = ("READONLY", "MASTERDOWN", "UNBLOCKED", "CLUSTERDOWN", "NOREPLICAS", "TRYAGAIN", "LOADING")
_KINDS: Final = (redis.ReadOnlyError, redis.exceptions.ClusterDownError, redis.exceptions.TryAgainError)


def leads_elsewhere(error: redis.ResponseError) -> bool:
    """Whether a server refuses because of the role it has now, so that another one is to be asked.

    Redis 6 wraps a script's error into its own: `ERR Error running script …: -READONLY You can't write …`.
    """
    text = str(error)
    return isinstance(error, _KINDS) or text.startswith(_ELSEWHERE) or any(f" -{code} " in text for code in _ELSEWHERE)


if TYPE_CHECKING:
    _Connection = redis.connection.AbstractConnection
else:
    _Connection = object


class _Following(_Connection):
    """Mixed into a connection class: an answer that leads elsewhere counts as a broken connection."""

    pool: "FollowingPool | None" = None
    age = 0

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """The next reply; raises redis.ConnectionError where the server is not the one to ask any more."""
        try:
            return super().read_response(*args, **kwargs)
        except redis.ResponseError as error:
            if not leads_elsewhere(error):
                raise
            self.disconnect()  # type: ignore[no-untyped-call] # the library's
            if self.pool is not None:
                self.pool.forget()
            message = f"the server is not the primary any more: {error}"
            raise redis.ConnectionError(message) from error


class FollowingPool(redis.ConnectionPool):
    """A connection pool whose connections are all given up when one of them has led to the wrong server."""

    @classmethod
    def of(cls, pool: redis.ConnectionPool, **overrides: Any) -> Self:
        """A pool with the address of another one, and connections of its own."""
        kind = pool.connection_class
        following = kind if issubclass(kind, _Following) else type(f"Following{kind.__name__}", (_Following, kind), {})
        settings = {name: value for name, value in pool.connection_kwargs.items() if not name.startswith("maint_")}
        return cls(connection_class=following, **{**settings, **overrides})

    age = 0  # how often all connections were given up

    def make_connection(self) -> Any:
        """A new connection that knows its pool."""
        connection: Any = super().make_connection()
        connection.pool, connection.age = self, self.age
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back; one from before the others were given up is closed."""
        if connection.age != self.age:
            connection.disconnect()
            connection.age = self.age
        super().release(connection)

    def forget(self) -> None:
        """Close what rests, and what is at work as soon as it comes back."""
        self.age += 1
        self.disconnect(inuse_connections=False)


def connect(url: str, *, answer_s: float) -> redis.Redis:
    """A client of the Redis at `url`; it says within about twice `answer_s` that none answers.

    A command is sent again once where its connection broke, and no more: who needs patience has its own. What the URL
    says of time-outs in its query wins.
    """
    waits = {"socket_timeout": answer_s, "socket_connect_timeout": min(answer_s, _CONNECT_S)}
    asked = redis.connection.parse_url(url)  # type: ignore[no-untyped-call] # the library's
    overrides = {name: value for name, value in waits.items() if name not in asked}
    pool = FollowingPool.of(redis.ConnectionPool.from_url(url), **overrides, retry=Retry(NoBackoff(), 1))
    return redis.Redis.from_pool(pool)


def beside(client: redis.Redis, *, answer_s: float, connect_s: float) -> redis.Redis:
    """Another client of the same Redis, with connections of its own, that sends every command once."""
    waits = {"socket_timeout": answer_s, "socket_connect_timeout": connect_s}
    return redis.Redis.from_pool(FollowingPool.of(client.connection_pool, **waits, retry=Retry(NoBackoff(), 0)))
