"""The private Redis of `run all`: kept alive like a child, on the same socket, and stopped after its users."""

import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import redis
import structlog

from ops.processes.supervisor import GiveUp, Restart, RestartPolicy, after_crash
from store.buffer.server import private_redis
from store.errors import StoreUnavailableError

_log = structlog.get_logger(__name__)
_DIED: int = 1


class PrivateRedis:
    """A redis-server of our own, restarted when it dies: its append-only file has everything that was acknowledged."""

    def __init__(self, directory: Path, policy: RestartPolicy) -> None:
        """Start it, on the main thread: the server ends with the thread that started it.

        Raises:
            StoreUnavailableError: it did not start.
        """
        self._directory = directory
        self._policy = policy
        self._crashes_s: list[float] = []
        self._start_at_s: float | None = None  # None: it runs
        self._open = ExitStack()
        self.url, self._pid = self._start()

    def look_after(self) -> str | None:
        """Restart it if it has died; the reason for giving up, if there is one."""
        now_s = time.monotonic()
        if self._start_at_s is None:
            return None if _runs(self._pid) else self._crashed(now_s, "it died")
        if now_s < self._start_at_s:
            return None
        try:
            url, self._pid = self._start()
        except StoreUnavailableError as error:
            return self._crashed(now_s, str(error))
        if url != self.url:  # only where the path is too long for a socket, and lies in a temporary folder
            return "redis: it came back under another address; shorten the path of state_dir"
        self._start_at_s = None
        return None

    def close(self) -> None:
        """Stop it."""
        self._open.close()

    def _start(self) -> tuple[str, int]:
        opened = ExitStack()
        url = opened.enter_context(private_redis(self._directory))
        self._open = opened
        with redis.Redis.from_url(url) as client:
            pid = int(client.info("server")["process_id"])
        _log.info("redis_started", pid=pid)
        return url, pid

    def _crashed(self, now_s: float, why: str) -> str | None:
        self._open.close()
        self._crashes_s = [*self._crashes_s, now_s][-self._policy.crashes :]
        match after_crash(self._crashes_s, _DIED, self._policy):
            case Restart(delay_s=delay_s):
                _log.error("redis_ended", why=why, restart_in_s=delay_s)
                self._start_at_s = now_s + delay_s
                return None
            case GiveUp(why=reason):
                return f"redis: {why}; {reason}"


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
