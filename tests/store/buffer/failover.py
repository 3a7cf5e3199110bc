"""Two real redis-servers behind one address that can be pointed from one to the other; open connections stay."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import redis

from store.buffer.server import find_server

_DEADLINE_S = 20.0


@dataclass
class Proxy:
    """A TCP proxy: new connections go to `target`, those that are open stay where they are."""

    target: int
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    open: list[socket.socket] = field(default_factory=list)

    def start(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def close(self) -> None:
        for one in (self.listener, *self.open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.open.append(client)
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                self.open.append(server)
                for here, there in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=(here, there), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@dataclass
class Pair:
    """A primary and its replica, until they change places."""

    old: redis.Redis
    new: redis.Redis
    new_port: int
    proxy: Proxy

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    def fail_over(self) -> None:
        """The replica leads, the old primary follows it, and the address leads new connections to the new one."""
        self.old.wait(1, int(_DEADLINE_S * 1000))
        self.new.replicaof("NO", "ONE")
        self.proxy.target = self.new_port
        self.old.replicaof("127.0.0.1", str(self.new_port))


@contextmanager
def failover_pair(folder: Path) -> Iterator[Pair]:
    """Start both servers and the proxy."""
    with ExitStack() as stack:
        ports = [stack.enter_context(_server(folder / name)) for name in ("old", "new")]
        old, new = (stack.enter_context(redis.Redis(port=port)) for port in ports)
        new.replicaof("127.0.0.1", str(ports[0]))
        deadline = time.monotonic() + _DEADLINE_S
        while new.info("replication").get("master_link_status") != "up":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        proxy = stack.enter_context(closing(Proxy(ports[0])))
        proxy.start()
        yield Pair(old, new, ports[1], proxy)


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    arguments = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(folder),
        "--save",
        "",
        "--repl-diskless-sync-delay",
        "0",
    ]
    with subprocess.Popen([find_server(), *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port) as client:
                deadline = time.monotonic() + _DEADLINE_S
                while True:
                    with suppress(redis.RedisError):
                        if client.ping():
                            break
                    assert time.monotonic() < deadline
                    assert process.poll() is None
                    time.sleep(0.02)
            yield port
        finally:
            process.kill()
