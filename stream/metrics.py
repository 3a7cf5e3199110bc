"""What ingest counts, and what it says of itself beside its loop: gauges, why it is not ready, a log line a change.

Labels are closed sets: lanes from the settings, partitions from the log, the rest is code. A thread of its own asks the
log and the store, so that one that hangs never holds up the loop. A figure that could not be read is not refreshed:
`dependency_up` then says that it is old.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from store.buffer.ledger import Buffer, LogSlot
from store.errors import LogUnavailableError, StoreUnavailableError
from store.event import Lane
from store.log.lazy import logger
from stream.log import Dependency, Lag, Source

_LAST_REPORT_S: Final = 2.0
_FATES: Final = ("counted", "repeats", "ineligible", "evicted")
UNREADABLE: Final = "-"  # for a tenant; no tenant is called so
OTHER_PROMPT: Final = "other_prompt"
_log = logger(__name__)
_BATCH_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestMetrics:
    """Ingest's metrics, in one registry."""

    records: Counter
    events: Counter
    dead_letters: Counter
    dead_letters_open: Gauge
    unusable: Counter
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
            dead_letters_open=gauge(
                "dead_letters_open",
                "Dead letters that nobody has replayed or dropped yet, as Redis has them, all processes together; worry"
                " at any: `understudy dlq list` says what they are.",
                "use_case",
                "reason",
            ),
            unusable=Counter(
                "understudy_events_unusable",
                "Records of producers that are not learned from, by why: the reason of a dead letter, or other_prompt"
                " (kept, and of no use while the lane has its present prompt); tenant is - where it cannot be read."
                " Worry at any steady flow.",
                ("tenant", "use_case", "reason"),
                registry=registry,
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
                "Stored positions that the log no longer (or not yet) holds, and damaged records of the log; worry at"
                " 1: that partition stands still until a person has decided.",
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
                "Partitions that stand still until a person has acted; worry at 1: /readyz says why (an event of a task"
                " that a newer release keeps, say), `understudy ingest skip --dry-run` what going on would lose.",
                "use_case",
            ),
        )


class Reporter:
    """Reports every few seconds until it is closed."""

    def __init__(
        self,
        source: Source,
        buffer: Buffer,
        blocked_by: Callable[[], Mapping[Dependency, str]],
        standing: Callable[[], Mapping[LogSlot, str]],
        *,
        use_case: str,
        lanes: Collection[Lane],
        metrics: IngestMetrics,
        every_s: float,
        clock: Callable[[], float],
    ) -> None:
        """`blocked_by` says what holds the writer up, `standing` which slots wait for an upgrade; from any thread."""
        self._source = source
        self._buffer = buffer
        self._blocked_by = blocked_by
        self._standing = standing
        self._use_case = use_case
        self._lanes = lanes
        self._metrics = metrics
        self._every_s = every_s
        self._clock = clock
        self._found: dict[Dependency, str] = {}  # what did not answer the last report
        self._said: frozenset[Dependency] = frozenset()
        self._stopped: frozenset[LogSlot] = frozenset()
        self._partitions: set[str] = set()  # that have gauges
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest-report", daemon=True)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why ingest takes less than comes, a line each; it asks nobody."""
        stopped = sorted({**self._source.health().stopped, **self._standing()}.items())
        return (
            *(f"{self._use_case}: waits for {name}: {why}" for name, why in sorted(self._faults().items())),
            *(f"{self._use_case}: partition {slot.partition} stands still: {why}" for slot, why in stopped),
        )

    def start(self) -> None:
        """Start the thread."""
        for lane in self._lanes:  # from 0 on, or what comes before the first scrape is no rise
            self._metrics.unusable.labels(lane.tenant, lane.use_case, OTHER_PROMPT)
        self.progressed()
        self._thread.start()

    def close(self) -> None:
        """Stop; a question that hangs is left alone."""
        self._closing.set()
        self._thread.join(_LAST_REPORT_S)

    def progressed(self) -> None:
        """Note that a batch was applied, or that nothing was left to apply."""
        self._metrics.last_progress.labels(self._use_case).set(self._clock())

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._report()
            except Exception as error:  # noqa: BLE001 - a report that fails must not be the last one
                _log.error("a report failed", use_case=self._use_case, why=repr(error))
            self._closing.wait(self._every_s)

    def _report(self) -> None:
        found: dict[Dependency, str] = {}
        lags: Mapping[LogSlot, Lag] | None = None
        try:
            lags = self._source.lag()
        except LogUnavailableError as error:
            found["log"] = str(error)
        try:
            self._show_buffer()
        except StoreUnavailableError as error:
            found["redis"] = str(error)
        self._found = found
        self._say_faults()
        self._say_stopped()
        if lags is not None:
            self._show_lags(lags)

    def _faults(self) -> dict[Dependency, str]:
        return {**self._found, **self._source.health().faults, **self._blocked_by()}

    def _say_faults(self) -> None:
        """Log what changed since the last report."""
        faults = self._faults()
        for name in get_args(Dependency):
            self._metrics.dependency_up.labels(self._use_case, name).set(name not in faults)
        for name in faults.keys() - self._said:
            _log.error("ingest waits", use_case=self._use_case, dependency=name, why=faults[name])
        for name in self._said - faults.keys():
            _log.info("ingest goes on", use_case=self._use_case, dependency=name)
        self._said = frozenset(faults)

    def _say_stopped(self) -> None:
        outside = self._source.health().stopped
        stopped = {**outside, **self._standing()}
        self._metrics.stopped_partitions.labels(self._use_case).set(len(stopped))
        for slot in stopped.keys() - self._stopped:
            self._metrics.positions_outside.labels(self._use_case).inc(slot in outside)
            _log.error(
                "a partition stands still until a person has acted: see `understudy ingest skip --dry-run`",
                use_case=self._use_case,
                partition=slot.partition,
                why=stopped[slot],
            )
        for slot in self._stopped - stopped.keys():
            _log.info("a partition goes on", use_case=self._use_case, partition=slot.partition)
        self._stopped = frozenset(stopped)

    def _show_lags(self, lags: Mapping[LogSlot, Lag]) -> None:
        """Refresh the gauges; partitions that are no longer ours disappear."""
        for slot, lag in lags.items():
            labels = (self._use_case, str(slot.partition))
            self._metrics.lag_records.labels(*labels).set(lag.records)
            self._metrics.oldest_unread_seconds.labels(*labels).set(lag.oldest_unread_s)
        if lags and not self._stopped and not any(lag.records for lag in lags.values()):
            self.progressed()
        owned = {str(slot.partition) for slot in lags}
        for partition in self._partitions - owned:
            self._metrics.lag_records.remove(self._use_case, partition)
            self._metrics.oldest_unread_seconds.remove(self._use_case, partition)
        self._partitions = owned

    def _show_buffer(self) -> None:
        for reason, letters in self._buffer.open_dead(self._use_case).items():
            self._metrics.dead_letters_open.labels(self._use_case, reason).set(letters)
        for lane in self._lanes:
            counters = self._buffer.counters(lane)
            labels = (lane.tenant, lane.use_case)
            for fate in _FATES:
                self._metrics.buffer_events.labels(*labels, fate).set(getattr(counters, fate))
            self._metrics.corrupt_items.labels(*labels).set(len(self._buffer.damaged(lane)))
