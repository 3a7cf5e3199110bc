"""The admin server of a process: `/metrics`, `/livez`, `/readyz`, and what it serves, on a daemon thread.

It listens on loopback by default. The probes can change nothing and answer no web page; the console, where a process
has one, looks after itself. It has a budget of its own: so many connections at once, each for so long; one more ends
the oldest, so that idle ones keep no probe out.
"""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import msgspec
from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from ops.console.web import MAX_BODY_BYTES, ROOT, Asked, Pages
from ops.processes import told
from serve.front.names import from_no_page, known_host
from store.log.lazy import logger

_log = logger()
MOST_AT_ONCE: Final = 32
_REQUEST_S: Final = 5.0  # for a client that says nothing
_CONNECTION_S: Final = 15.0  # for all of one, its answer included
_NO_DESCRIPTOR_S: Final = 0.05
_MAX_UNREAD_BYTES: Final = 64 << 10
_TEXT: Final = "text/plain; charset=utf-8"
_ELSEWHERE: Final = b"/livez, /readyz, /metrics, /lanes and /openapi.json are served here\n"

_INFO: Final = Gauge(
    "understudy_process_info",
    "1 for as long as this process runs, under its name (serve, ingest or train); worry when it is gone: the other"
    " series of a process vanish with it, and no rule on those can fire.",
    ("process",),
)

Check = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What a process answers about itself; each must return at once."""

    live: Check  # the loops tick; never depends on Kafka or Redis
    ready: Check
    why: Callable[[], str] = lambda: "no"  # why it is not ready, for a person: a line each
    degraded: Callable[[], Sequence[str]] = tuple  # what a ready process does without; it stays ready
    lanes: Callable[[], Any] = dict  # for `status` and `rollback` while Redis is down: lane -> what is served


def name_process(name: str) -> None:
    """Say in the metrics which process this is."""
    _INFO.labels(name).set(1)


@contextmanager
def admin_server(
    host: str,
    port: int,
    probes: Probes,
    *,
    registry: CollectorRegistry = REGISTRY,
    hosts: frozenset[str] = frozenset(),
    pages: Pages | None = None,
) -> Iterator[int]:
    """Serve the probes and yield the port that is listened on (any free one for port 0).

    Args:
        host: address to listen on.
        port: to listen on.
        probes: what is answered.
        registry: of the metrics.
        hosts: names that it may be called by, beside loopback's own and any address.
        pages: what answers below `/console`; None: nothing does.

    Raises:
        OSError: the port is taken.
    """
    server = _Server((host, port), probes, registry, hosts, pages)
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
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        probes: Probes,
        registry: CollectorRegistry,
        hosts: frozenset[str],
        pages: Pages | None,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.probes = probes
        self.registry = registry
        self.hosts = hosts
        self.pages = pages
        self._changed = threading.Condition()
        self._since_s: dict[socket.socket, float] = {}  # open connections, oldest first
        self._at_work = 0

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(_NO_DESCRIPTOR_S)  # the connection stays on offer: do not spin on it
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            while len(self._since_s) >= MOST_AT_ONCE:
                self._end(next(iter(self._since_s)))
            # Those that were ended need a moment to notice; the next ones wait in the kernel's queue.
            crowded = not self._changed.wait_for(lambda: self._at_work < 2 * MOST_AT_ONCE, _REQUEST_S)
            if not crowded:
                self._at_work += 1
                self._since_s[request] = time.monotonic()
        if crowded:
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._at_work -= 1
                self._changed.notify()

    def shutdown_request(self, request: Any) -> None:
        with self._changed:
            self._since_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        with self._changed:
            late_s = time.monotonic() - _CONNECTION_S
            for request in [one for one, since_s in self._since_s.items() if since_s < late_s]:
                self._end(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class has it so
        error = sys.exception()
        if not isinstance(error, OSError):  # hung up midway, by the client or by us: nobody's fault
            _log.warning("admin_failed", error=type(error).__name__)

    def _end(self, request: socket.socket) -> None:
        """Wake the thread of a connection with an end of file; it closes it."""
        self._since_s.pop(request, None)
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_S  # of the socket: a client that says nothing holds no thread for ever

    def do_GET(self) -> None:
        """Answer one probe, or show a page."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if (pages := self._pages()) is not None:
            self._show(pages, headers, b"")
            return
        if not (from_no_page(headers) and known_host(headers.get("host"), self.server.hosts)):
            why = b"web pages are not answered, nor hosts that are not in admin.allowed_hosts\n"
            self._send(HTTPStatus.FORBIDDEN, why, _TEXT)
            return
        try:
            status, body, content_type = self._answer(self.path.partition("?")[0])
        except Exception as error:  # noqa: BLE001 - a probe that fails is an answer, not a fault of the server
            _log.warning("probe_failed", path=self.path[:100], error=type(error).__name__)
            status, body, content_type = HTTPStatus.SERVICE_UNAVAILABLE, b"the probe failed\n", _TEXT
        self._send(status, body, content_type)

    def do_POST(self) -> None:
        """Hand it to the console, or refuse: nothing can be changed by a probe."""
        said = self.headers.get("content-length", "")
        length = int(said) if said.isdigit() else 0
        body = self.rfile.read(min(length, _MAX_UNREAD_BYTES))  # what is not read would take the answer with it
        if (pages := self._pages()) is not None:
            if length > MAX_BODY_BYTES:
                self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"that is too much\n", _TEXT)
                return
            self._show(pages, {name.lower(): value for name, value in self.headers.items()}, body)
            return
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET is answered here\n", _TEXT)

    def __getattr__(self, name: str) -> Any:
        """Any other method is taken like POST: the base class looks for `do_` and its name."""
        if name.startswith("do_"):
            return self.do_POST
        raise AttributeError(name)

    def _pages(self) -> Pages | None:
        """What answers this request in place of the probes."""
        path = self.path.partition("?")[0]
        return self.server.pages if path == ROOT or path.startswith(f"{ROOT}/") else None

    def _show(self, pages: Pages, headers: Mapping[str, str], body: bytes) -> None:
        if not known_host(headers.get("host"), self.server.hosts):
            self._send(HTTPStatus.FORBIDDEN, b"hosts are not answered that are not in admin.allowed_hosts\n", _TEXT)
            return
        path, _, query = self.path.partition("?")
        peer = str(self.client_address[0])
        answered = pages.answer(
            Asked(method=self.command, path=path, query=query, headers=headers, body=body, peer=peer)
        )
        self._send(answered.status, answered.body, answered.headers)

    def _answer(self, path: str) -> tuple[HTTPStatus, bytes, str]:
        probes = self.server.probes
        match path:
            case "/livez" | "/readyz":
                passed = probes.live() if path == "/livez" else probes.ready()
                status = HTTPStatus.OK if passed else HTTPStatus.SERVICE_UNAVAILABLE
                why = "ok" if passed else "no" if path == "/livez" else probes.why()
                missing = "".join(f"degraded: {name}\n" for name in probes.degraded()) if path == "/readyz" else ""
                return status, f"{why}\n{missing}".encode(), _TEXT
            case "/metrics":
                return HTTPStatus.OK, generate_latest(self.server.registry), CONTENT_TYPE_PLAIN_0_0_4
            case "/lanes":
                return HTTPStatus.OK, msgspec.json.encode(probes.lanes()), "application/json"
            case told.PATH:
                return HTTPStatus.OK, msgspec.json.encode(told.document()), "application/json"
            case _:
                return HTTPStatus.NOT_FOUND, _ELSEWHERE, _TEXT

    def _send(self, status: HTTPStatus, body: bytes, said: str | Mapping[str, str]) -> None:
        """Send an answer, with its content type or with all of its headers."""
        self.send_response(status)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        for name, value in ({"Content-Type": said} if isinstance(said, str) else said).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Probes come every few seconds: nothing is logged of them."""
