"""A collector of spans on loopback, as small as can be: OTLP over HTTP, decoded by OpenTelemetry's own package."""

import gzip
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry

from ops.wiring.otel import OtelTracer


@dataclass(frozen=True)
class Got:
    """One span."""

    name: str
    kind: int  # 1 internal, 2 server, 3 client, 4 producer, 5 consumer
    trace: str
    id: str
    parent: str
    failed: bool
    said: Mapping[str, Any]
    links: tuple[str, ...]  # trace ids
    service: str
    state: str


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent; `status` is what it answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.status = 200
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.hold: threading.Event | None = None
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[Got]:
        return [one for body in self.bodies for one in _spans(body)]


@contextmanager
def collecting() -> Iterator[Collector]:
    """One that runs."""
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


def tracer_to(url: str, *, ratio: float = 1.0, registry: CollectorRegistry | None = None) -> OtelTracer:
    """What a process sends its spans with."""
    return OtelTracer(
        endpoint=f"{url}/v1/traces",
        headers={"x-key": "of the collector"},
        sample_ratio=ratio,
        resource={"service.name": "understudy-test"},
        registry=registry or CollectorRegistry(),
    )


class _Take(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        if self.server.hold is not None:
            self.server.hold.wait(30)
        if self.server.status == 200:
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.server.paths.append(self.path)
            self.server.bodies.append(gzip.decompress(body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _spans(body: bytes) -> Iterator[Got]:
    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        service = _said(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for one in scope.spans:
                assert one.end_time_unix_nano >= one.start_time_unix_nano > 0
                yield Got(
                    name=one.name,
                    kind=one.kind,
                    trace=one.trace_id.hex(),
                    id=one.span_id.hex(),
                    parent=one.parent_span_id.hex(),
                    failed=one.status.code == 2,
                    said=_said(one.attributes),
                    links=tuple(link.trace_id.hex() for link in one.links),
                    service=service,
                    state=one.trace_state,
                )


def _said(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
