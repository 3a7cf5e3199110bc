"""What the gateway counts. Labels are closed sets: lanes come from the settings, the rest from this code."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LANE: Final = ("tenant", "use_case")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeMetrics:
    """The gateway's metrics, in one registry."""

    answers: Counter
    request_seconds: Histogram
    forward_seconds: Histogram
    forward_texts: Histogram
    forward_tokens: Histogram
    teacher_calls: Counter
    invalid_answers: Counter
    teacher_usd: Counter
    teacher_seconds: Histogram
    teacher_refused: Gauge
    dropped: Counter
    audits: Counter
    verdicts: Counter
    audits_waiting: Gauge
    swaps: Counter
    registry_refused: Gauge
    served: Gauge
    budget_used: Gauge
    budget_limit: Gauge
    suspended: Gauge
    spool_bytes: Gauge
    spool_limit: Gauge
    shed: Counter
    line_tokens: Gauge
    line_seconds: Gauge
    hung_seconds: Gauge
    vectors_found: Gauge
    vectors_computed: Gauge
    vectors_kept: Gauge
    teacher_waiting: Gauge
    degraded: Gauge
    replayed: Counter
    connections: Gauge
    connections_closed: Counter

    def observe_forward(self, questions: int, tokens: int, seconds: float) -> None:
        """Count one forward pass."""
        self.forward_texts.observe(questions)
        self.forward_tokens.observe(tokens)
        self.forward_seconds.observe(seconds)

    def watch_spool(self, kept: Callable[[], int], limit_bytes: int) -> None:
        """Show what the spool holds whenever somebody looks."""
        self.spool_bytes.set_function(kept)
        self.spool_limit.set(limit_bytes)

    @classmethod
    def create(cls, registry: CollectorRegistry) -> "ServeMetrics":
        """Register the metrics; once for each registry."""

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"understudy_{name}", text, (*_LANE, *labels), registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"understudy_{name}", text, (*_LANE, *labels), registry=registry)

        return cls(
            answers=counter(
                "answers",
                "Answers by who gave them; worry when `nobody` rises: clients get errors.",
                "served_by",
                "reason",
                "degraded",
            ),
            request_seconds=Histogram(
                "understudy_request_seconds",
                "From admission to answer; worry when the student's p99 leaves its steady value.",
                (*_LANE, "served_by"),
                buckets=_SECONDS,
                registry=registry,
            ),
            forward_seconds=Histogram(
                "understudy_forward_seconds",
                "One forward pass of a batch; worry when it nears the student's time-out.",
                buckets=_SECONDS,
                registry=registry,
            ),
            forward_texts=Histogram(
                "understudy_forward_texts",
                "Questions in one forward pass; worry when always at the limit: the gateway is saturated.",
                buckets=(1, 2, 4, 8, 16, 32, 64, 128),
                registry=registry,
            ),
            forward_tokens=Histogram(
                "understudy_forward_tokens",
                "Tokens in one forward pass, about; worry when always at the limit: the gateway is saturated.",
                buckets=(16, 64, 256, 1_024, 4_096, 16_384, 65_536),
                registry=registry,
            ),
            teacher_calls=counter(
                "teacher_calls", "Calls by outcome; worry when `unavailable` or `invalid` rises.", "outcome"
            ),
            invalid_answers=counter(
                "invalid_answers",
                "Answers of the teacher that were paid for and are none; worry above a few in a hundred: the prompt"
                " or the parser does not fit the teacher.",
                "kind",
            ),
            teacher_usd=counter("teacher_usd", "Dollars by the price table; worry when it outruns the budget."),
            teacher_seconds=Histogram(
                "understudy_teacher_seconds",
                "A call's latency; worry when it nears the time-out.",
                _LANE,
                buckets=_SECONDS,
                registry=registry,
            ),
            teacher_refused=gauge(
                "teacher_refused",
                "1 while the teacher's endpoint refuses our key, model, address, parameters or quota; worry at once.",
                "reason",
            ),
            dropped=counter("escalations_dropped", "Paid answers that neither log nor spool took; worry at once."),
            audits=counter("audits", "Audits by outcome; worry when `lost` rises: the estimate thins out.", "outcome"),
            verdicts=counter(
                "verdicts",
                "Audits of free text by what the referee said; worry when `inconsistent` is a large share: the judge "
                "goes by the order of the answers; or when `unjudged` rises: these count as no agreement.",
                "kind",
            ),
            audits_waiting=gauge("audits_waiting", "Audits that wait for the teacher; full means none is drawn."),
            swaps=counter("swaps", "Swaps by outcome; worry at each `failed`: the old version serves on.", "outcome"),
            registry_refused=gauge(
                "registry_refused", "1 while the moves cannot be read or trusted; worry at once: no move is followed."
            ),
            served=gauge("served", "1 for a lane that a student serves, 0 while cold; worry when it falls."),
            budget_used=gauge("budget_used_calls", "Teacher calls counted against the last 24 hours."),
            budget_limit=gauge("budget_limit_calls", "Teacher calls allowed in 24 hours."),
            suspended=gauge(
                "promise_suspended",
                "1 while answers are withheld: the budget binds, or Redis does not say what is left of it; "
                "worry when it lasts.",
            ),
            shed=counter(
                "requests_shed",
                "Requests refused with 429 and nobody paid; worry when it lasts: add replicas.",
                "reason",
            ),
            line_tokens=Gauge(
                "understudy_student_line_tokens",
                "Tokens admitted that students have still to read; worry when it stays high.",
                registry=registry,
            ),
            line_seconds=Gauge(
                "understudy_student_line_seconds",
                "How long one more token would wait for the student; worry when it nears its limit.",
                registry=registry,
            ),
            hung_seconds=Gauge(
                "understudy_student_hung_seconds",
                "How long the student has hung in a forward pass, 0 if it does not; worry at once.",
                registry=registry,
            ),
            vectors_found=Gauge(
                "understudy_document_vectors_found",
                "Documents whose vector was known, since the start; worry when few are: load the catalogue.",
                registry=registry,
            ),
            vectors_computed=Gauge(
                "understudy_document_vectors_computed",
                "Documents whose vector had to be computed, since the start; worry when it rises like those found.",
                registry=registry,
            ),
            vectors_kept=Gauge(
                "understudy_document_vectors_kept",
                "Documents whose vector is known now; worry when it stands still while many are computed: it is full.",
                registry=registry,
            ),
            teacher_waiting=gauge(
                "teacher_waiting", "Texts that wait for a turn with the teacher; worry when it grows."
            ),
            degraded=gauge(
                "degraded", "1 while answers go on without this dependency; worry when it lasts.", "dependency"
            ),
            spool_bytes=Gauge(
                "understudy_spool_bytes",
                "Events on disk that the log has not taken; worry when it nears the limit: then events are dropped.",
                registry=registry,
            ),
            spool_limit=Gauge(
                "understudy_spool_limit_bytes", "What the spool may hold: spool.max_bytes.", registry=registry
            ),
            replayed=counter("replayed", "Requests answered with what was kept under their Idempotency-Key."),
            connections=Gauge(
                "understudy_connections",
                "Open connections of the gateway's port; worry when it stays at its limit.",
                registry=registry,
            ),
            connections_closed=Counter(
                "understudy_connections_closed",
                "Connections that the gateway ended, by why; worry when `evicted` or `refused` rises: too many.",
                ["why"],
                registry=registry,
            ),
        )
