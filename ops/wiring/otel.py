"""Spans by OpenTelemetry's own SDK, sent to a collector by OTLP over HTTP. Imported where the settings name one alone.

Nobody waits for the collector: spans wait in a bounded queue and go from a thread of their own; what finds no room, or
is not taken, is dropped and counted. A collector that does not answer is said once, and once more when it does.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import requests
from opentelemetry import trace
from opentelemetry.context import Context as OtelContext
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.status import Status, StatusCode
from prometheus_client import CollectorRegistry, Counter

from store.log.lazy import logger
from store.tracing import names
from store.tracing.spans import Attributes, Context, Kind, Span

_log: Final = logger(__name__)
_MOST_WAITING: Final = 4_096  # spans
_AT_ONCE: Final = 512
_EVERY_MS: Final = 2_000.0
_TAKE_S: Final = 5.0  # that a batch may take, its repeats included
_FLUSH_S: Final = 3.0  # at the end
_KINDS: Final[Mapping[Kind, trace.SpanKind]] = {
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "producer": trace.SpanKind.PRODUCER,
    "consumer": trace.SpanKind.CONSUMER,
    "internal": trace.SpanKind.INTERNAL,
}
_W3C: Final = TraceContextTextMapPropagator()


class OtelTracer:
    """Satisfies `store.tracing.spans.Tracer`. May be used from any thread."""

    recording = True

    def __init__(
        self,
        *,
        endpoint: str,
        headers: Mapping[str, str],
        sample_ratio: float,
        resource: Mapping[str, str],
        registry: CollectorRegistry,
    ) -> None:
        """Nothing is sent before the first span ends.

        Args:
            endpoint: the collector's whole address for traces.
            headers: of each request to it.
            sample_ratio: of the requests whose traces begin here; a client's own says for itself whether it is kept.
            resource: what the spans are of, `service.name` and the like.
            registry: where spans are counted.
        """
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # what it has to say is said here, once
        session = requests.Session()
        session.trust_env = False  # it goes where it is told
        exporter = OTLPSpanExporter(
            endpoint=endpoint, headers=headers, timeout=_TAKE_S, compression=Compression.Gzip, session=session
        )
        self._spans = _Bounded(exporter, endpoint, registry)
        self._tracer = self._made(ParentBased(TraceIdRatioBased(sample_ratio)), resource)
        self._keeping = self._made(ALWAYS_ON, resource)  # what is recorded is rare, or linked with what was kept

    def _made(self, sampler: Sampler, resource: Mapping[str, str]) -> trace.Tracer:
        provider = TracerProvider(sampler=sampler, resource=Resource(dict(resource)), shutdown_on_exit=False)
        provider.add_span_processor(self._spans)
        return provider.get_tracer("understudy")

    @contextmanager
    def begin(self, name: str, kind: Kind, attributes: Attributes, parent: Context | None) -> Iterator[Span]:
        """See `Tracer`."""
        above = OtelContext() if parent is None else _W3C.extract(parent.headers, OtelContext())
        with _lasting(self._tracer, name, kind, attributes, above) as made:
            yield made

    def record(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        start_s: float,
        end_s: float,
        links: Sequence[Context] = (),
        error_type: str | None = None,
    ) -> None:
        """See `Tracer`."""
        made = self._keeping.start_span(
            name,
            OtelContext(),
            _KINDS[kind],
            _said(attributes),
            links=[trace.Link(_span_context(one)) for one in links],
            start_time=int(start_s * 1e9),
        )
        if error_type is not None:
            _failed(made, error_type)
        made.end(int(end_s * 1e9))

    def close(self) -> None:
        """Send what waits, within a bound; what is left then is dropped, and said."""
        ending = threading.Thread(target=self._spans.shutdown, name="spans", daemon=True)
        ending.start()
        ending.join(_FLUSH_S)
        if (left := self._spans.waiting) > 0:
            _log.warning("spans were not sent before the end", left=left)


class _OtelSpan:
    """Satisfies `store.tracing.spans.Span`."""

    def __init__(self, tracer: trace.Tracer, inner: trace.Span) -> None:
        self._tracer = tracer
        self._inner = inner
        self._is_failed = False
        found = inner.get_span_context()
        self.recording = found.trace_flags.sampled  # also once it has ended: audits go on after their request
        self.context: Context | None = Context(
            traceparent=f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}",
            tracestate=found.trace_state.to_header(),
        )

    def note(self, attributes: Attributes) -> None:
        """See `Span`."""
        if self._inner.is_recording():
            self._inner.set_attributes(_said(attributes))

    def fail(self, error_type: str) -> None:
        """See `Span`."""
        if self._inner.is_recording() and not self._is_failed:
            self._is_failed = True
            _failed(self._inner, error_type)

    @contextmanager
    def child(self, name: str, kind: Kind, attributes: Attributes) -> Iterator[Span]:
        """See `Span`."""
        with _lasting(self._tracer, name, kind, attributes, trace.set_span_in_context(self._inner)) as made:
            yield made


@contextmanager
def _lasting(
    tracer: trace.Tracer, name: str, kind: Kind, attributes: Attributes, above: OtelContext
) -> Iterator[_OtelSpan]:
    inner = tracer.start_span(name, above, _KINDS[kind], _said(attributes))
    try:
        yield _OtelSpan(tracer, inner)
    finally:
        inner.end()


class _Bounded(BatchSpanProcessor):
    """The SDK's queue and thread, which are asked no more than they hold, and every span's fate counted."""

    def __init__(self, exporter: SpanExporter, endpoint: str, registry: CollectorRegistry) -> None:
        counter = count_spans(registry)
        self._counts = {name: counter.labels(name) for name in ("sent", "failed", "dropped")}
        self._turn = threading.Lock()
        self.waiting = 0  # that ended and are neither sent nor given up
        sink: Any = _Told(exporter, endpoint, self._handed)
        super().__init__(
            sink, max_queue_size=_MOST_WAITING, schedule_delay_millis=_EVERY_MS, max_export_batch_size=_AT_ONCE
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue one; never waits."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._turn:
            if self.waiting >= _MOST_WAITING:
                self._counts["dropped"].inc()
                return
            self.waiting += 1
        super().on_end(span)

    def _handed(self, spans: int, *, taken: bool) -> None:
        with self._turn:
            self.waiting -= spans
        self._counts["sent" if taken else "failed"].inc(spans)


class _Told(SpanExporter):
    """The exporter, and what became of each batch."""

    def __init__(self, inner: SpanExporter, endpoint: str, handed: Any) -> None:
        self._inner = inner
        self._endpoint = endpoint
        self._handed = handed
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; raises nothing."""
        try:
            taken = self._inner.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - whatever it is, spans alone are lost
            _log.error("spans cannot be sent", error=f"{type(error).__name__}: {error}")
            taken = False
        self._handed(len(spans), taken=taken)
        if taken == self._is_away:
            self._is_away = not taken
            if taken:
                _log.info("the collector takes spans again", endpoint=self._endpoint)
            else:
                _log.warning(
                    "the collector does not take spans: they are dropped and counted until it does; see"
                    " tracing.endpoint",
                    endpoint=self._endpoint,
                )
        return SpanExportResult.SUCCESS if taken else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Let go of connections."""
        self._inner.shutdown()


def count_spans(registry: CollectorRegistry) -> Counter:
    """What became of spans."""
    return Counter(
        "understudy_trace_spans",
        "Spans, by what became of them: sent; failed: the collector did not take them; dropped: too many waited. Where"
        " tracing is on. Traces have gaps where it is not all sent; requests never wait for it.",
        ["outcome"],
        registry=registry,
    )


def _failed(inner: trace.Span, error_type: str) -> None:
    inner.set_attribute(names.ERROR_TYPE, error_type)
    inner.set_status(Status(StatusCode.ERROR))


def _said(attributes: Attributes) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _span_context(one: Context) -> trace.SpanContext:
    return trace.get_current_span(_W3C.extract(one.headers, OtelContext())).get_span_context()
