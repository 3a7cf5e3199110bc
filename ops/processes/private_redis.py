"""The private Redis of `run all`: kept alive like a child, on the same socket, and stopped after its users.

It is never given up: the gateway answers without it, and what made it die may be over at any time. A full disk is the
usual reason, for an append-only file that cannot be written ends the server.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ops.processes.supervisor import RestartPolicy, delay_after
from ops.state.disk import refusal
from store.buffer.server import Server
from store.errors import StoreUnavailableError
from store.log.lazy import logger

_log = logger(__name__)
_LOOK_AGAIN_S: Final = 1.0  # at a disk that is full: recovery is a matter of seconds once there is room
_SAY_AGAIN_S: Final = 60.0
REDIS_POLICY: Final = RestartPolicy(longest_delay_s=5.0)


class PrivateRedis:
    """A redis-server of our own, restarted when it dies: its append-only file has everything that was acknowledged."""

    def __init__(
        self, directory: Path, policy: RestartPolicy = REDIS_POLICY, *, refusal: Callable[[Path], str | None] = refusal
    ) -> None:
        """Begin to start it; `look_after` goes on with that, on the main thread.

        Args:
            directory: where its files are.
            policy: how soon it is started again.
            refusal: why the disk takes nothing, None where it does.

        Raises:
            SettingsError: there is no redis-server on this machine.
        """
        self._server = Server(directory)
        self._directory = directory
        self._policy = policy
        self._refusal = refusal
        self._crashes_s: list[float] = []
        self._start_at_s = time.monotonic()
        self._runs = False
        self._said: tuple[str, float] | None = None
        self._trouble: str | None = "redis has not started yet"
        self.url = self._server.url
        self.look_after()

    def look_after(self) -> str | None:
        """Start it where it does not run and that is due; why it does not answer, None where it does. Never waits."""
        now_s = time.monotonic()
        try:
            if not self._runs:
                if now_s >= self._start_at_s:
                    self._start(now_s)
            elif self._trouble is not None and self._server.ready():
                self._trouble, self._said = None, None
                _log.info("redis_started", pid=self._server.pid)
            elif self._server.ended():
                self._ended(now_s, self._server.last_words())
        except StoreUnavailableError as error:
            self._ended(now_s, str(error))
        return self._trouble

    def close(self) -> None:
        """Stop it."""
        self._server.stop()
        self._runs = False

    def _start(self, now_s: float) -> None:
        """Start it, unless it would die at once: each start in vain reads the whole append-only file."""
        if (why := self._refusal(self._directory)) is not None:
            self._trouble = f"redis is down: {why}"
            self._start_at_s = now_s + _LOOK_AGAIN_S
            if self._said is None or self._said[0] != "disk" or now_s - self._said[1] >= _SAY_AGAIN_S:
                self._said = ("disk", now_s)
                _log.error("redis_waits_for_room", why=why, action="make room: everything goes on by itself then")
            return
        self._server.start()
        self._runs = True

    def _ended(self, now_s: float, why: str) -> None:
        self._server.stop()
        self._runs = False
        self._crashes_s = [*self._crashes_s, now_s][-self._policy.crashes :]
        delay_s = delay_after(self._crashes_s, self._policy)
        self._trouble, self._start_at_s = f"redis is down: {why}", now_s + delay_s
        _log.error("redis_ended", why=why, disk=self._refusal(self._directory) or "takes writes", restart_in_s=delay_s)
