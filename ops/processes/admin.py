"""The admin server of a process: `/metrics`, `/livez`, `/readyz`, and what it serves, on a daemon thread.

It listens on loopback by default and can change nothing.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import msgspec
import structlog
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

_log = structlog.get_logger()
_REQUEST_S: Final = 5.0
_TEXT: Final = "text/plain; charset=utf-8"

Check = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What a process answers about itself; each must return at once."""

    live: Check  # the loops tick; never depends on Kafka or Redis
    ready: Check
    degraded: Callable[[], Sequence[str]] = tuple  # what a ready process does without; it stays ready
    lanes: Callable[[], Any] = dict  # for `status` and `rollback` while Redis is down: lane -> what is served


@contextmanager
def admin_server(host: str, port: int, probes: Probes, *, registry: CollectorRegistry = REGISTRY) -> Iterator[int]:
    """Serve the probes and yield the port that is listened on (any free one for port 0).

    Raises:
        OSError: the port is taken.
    """
    server = _Server((host, port), probes, registry)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="admin", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], probes: Probes, registry: CollectorRegistry) -> None:
        super().__init__(address, _Handler)
        self.probes = probes
        self.registry = registry


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_S  # of the socket: a client that says nothing holds no thread for ever

    def do_GET(self) -> None:
        """Answer one probe."""
        try:
            status, body, content_type = self._answer(self.path.partition("?")[0])
        except Exception as error:  # noqa: BLE001 - a probe that fails is an answer, not a fault of the server
            _log.warning("probe_failed", path=self.path[:100], error=type(error).__name__)
            status, body, content_type = HTTPStatus.SERVICE_UNAVAILABLE, b"the probe failed\n", _TEXT
        self._send(status, body, content_type)

    def _answer(self, path: str) -> tuple[HTTPStatus, bytes, str]:
        probes = self.server.probes
        match path:
            case "/livez" | "/readyz":
                passed = probes.live() if path == "/livez" else probes.ready()
                status = HTTPStatus.OK if passed else HTTPStatus.SERVICE_UNAVAILABLE
                missing = "".join(f"degraded: {name}\n" for name in probes.degraded()) if path == "/readyz" else ""
                return status, (("ok\n" if passed else "no\n") + missing).encode(), _TEXT
            case "/metrics":
                return HTTPStatus.OK, generate_latest(self.server.registry), CONTENT_TYPE_PLAIN_0_0_4
            case "/lanes":
                return HTTPStatus.OK, msgspec.json.encode(probes.lanes()), "application/json"
            case _:
                return HTTPStatus.NOT_FOUND, b"/livez, /readyz, /metrics and /lanes are served here\n", _TEXT

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Probes come every few seconds: nothing is logged of them."""
