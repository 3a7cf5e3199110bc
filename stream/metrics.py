"""What ingest counts. Labels are closed sets: lanes from the settings, partitions from the log, the rest is code."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BATCH_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestMetrics:
    """Ingest's metrics, in one registry."""

    records: Counter
    events: Counter
    dead_letters: Counter
    batch_seconds: Histogram
    refused: Counter
    retries: Counter
    lag_records: Gauge
    oldest_unread_seconds: Gauge
    last_progress: Gauge
    positions_outside: Counter
    buffer_events: Gauge
    corrupt_items: Gauge
    dependency_up: Gauge
    stopped_partitions: Gauge

    @classmethod
    def create(cls, registry: CollectorRegistry) -> "IngestMetrics":
        """Register the metrics; once for each registry."""

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"understudy_ingest_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"understudy_{name}", text, labels, registry=registry)

        return cls(
            records=counter(
                "records",
                "Records applied by this process, dead letters included; worry when the rate is 0 and there is lag.",
                "use_case",
            ),
            events=counter(
                "events",
                "Valid events applied by this process; worry when it stays behind the gateways' escalations.",
                "tenant",
                "use_case",
            ),
            dead_letters=counter(
                "dead_letters",
                "Records that will never become items; worry at any steady flow: a producer speaks another schema.",
                "use_case",
                "reason",
            ),
            batch_seconds=Histogram(
                "understudy_ingest_batch_seconds",
                "From the writer taking a batch to its application; worry when p99 passes 1 s: Redis or its disk.",
                ["use_case"],
                buckets=_BATCH_SECONDS,
                registry=registry,
            ),
            refused=counter(
                "refused_batches",
                "Batches that Redis refused, and that were read again; worry when it rises without a restart: two"
                " processes fight for a partition (fenced), or Redis was restored (moved).",
                "use_case",
                "outcome",
            ),
            retries=counter(
                "retries",
                "Attempts that failed for want of Redis (store) or of the log (dead letters); worry while it rises:"
                " nothing is ingested meanwhile.",
                "use_case",
                "waiting_for",
            ),
            lag_records=gauge(
                "ingest_lag_records",
                "Unread records of a partition, as last read (see ingest_dependency_up); worry"
                " when it grows for longer than a burst lasts.",
                "use_case",
                "partition",
            ),
            oldest_unread_seconds=gauge(
                "ingest_oldest_unread_seconds",
                "Age of a partition's oldest unread record; worry above 900: what is learned is old.",
                "use_case",
                "partition",
            ),
            last_progress=gauge(
                "ingest_last_progress_timestamp_seconds",
                "When this process last applied a batch, or last asked the log and heard that nothing is unread; worry"
                " when it is older than 300 s.",
                "use_case",
            ),
            positions_outside=counter(
                "positions_outside_log",
                "Stored positions that the log no longer (or not yet) holds, and damaged records of the log; worry at 1:"
                " that partition stands still until a person has decided.",
                "use_case",
            ),
            buffer_events=gauge(
                "buffer_events",
                "Events of a lane by what became of them, as Redis has them, all processes together; worry when"
                " `ineligible` holds everything: training is not permitted there.",
                "tenant",
                "use_case",
                "fate",
            ),
            corrupt_items=gauge(
                "buffer_corrupt_items",
                "Stored values of a lane that were found damaged, and are left out; worry at 1: `understudy buffer"
                " rebuild` mends them from the log.",
                "tenant",
                "use_case",
            ),
            dependency_up=gauge(
                "ingest_dependency_up",
                "Whether Redis (redis) and the log of escalations (log) answered when last asked; worry at 0: nothing"
                " is ingested, and the other gauges say what was.",
                "use_case",
                "dependency",
            ),
            stopped_partitions=gauge(
                "ingest_stopped_partitions",
                "Partitions that stand still until a person has decided; worry at 1: `understudy ingest skip --dry-run`"
                " says what is lost.",
                "use_case",
            ),
        )
