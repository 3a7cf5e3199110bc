"""The writing half of ingest: one thread that buries the dead and applies the batches, in the order in which they came.

A transient fault blocks it, and with it the partitions, for as long as it lasts: nothing is ever skipped. So does an
item that another release has written, until this one is upgraded or the buffer is rebuilt. It waits for the store's
disk while the polling thread decodes the next batch.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import Full, Queue
from random import Random
from time import monotonic
from typing import Final, Literal

from store.buffer.ledger import Application, Applied, Buffer
from store.errors import CorruptItemError, LogUnavailableError, StoreUnavailableError
from store.event import wall_clock_s
from store.faults.points import reach
from store.log.lazy import logger
from store.retry.backoff import Backoff
from store.tracing import names
from store.tracing.spans import OFF, Attributes, Context, Tracer, context_of
from stream.dead_letter import DeadLetters, Letter
from stream.log import Batch, CommitOutcome, Dependency, Record
from stream.metrics import OTHER_PROMPT, UNREADABLE, IngestMetrics

_QUEUE_BATCHES: Final = 2
_LAST_CALL_S: Final = 10.0  # for a call that is under way when the grace is over; sockets time out sooner
_MOST_LINKS: Final = 128  # that a span may have, as OpenTelemetry's libraries keep them

_log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A batch with all that is to be written for it."""

    batch: Batch
    application: Application
    letters: tuple[Letter, ...]
    other_prompts: Mapping[str, int] = field(default_factory=dict)  # tenant -> answers under another prompt than now


class Writer:
    """Applies batches until it is closed."""

    def __init__(
        self,
        buffer: Buffer,
        dead_letters: DeadLetters,
        settled: Callable[[Batch, CommitOutcome], None],
        *,
        metrics: IngestMetrics,
        backoff: Backoff,
        rng: Random,
        tracer: Tracer = OFF,
    ) -> None:
        """`settled` is called from this thread with what became of each batch."""
        self._buffer = buffer
        self._dead_letters = dead_letters
        self._settled = settled
        self._metrics = metrics
        self._backoff = backoff
        self._rng = rng
        self._tracer = tracer
        self._queue: Queue[Prepared | None] = Queue(_QUEUE_BATCHES)
        self._closing = threading.Event()
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest-writer", daemon=True)
        self.failure: Exception | None = None  # why the thread ended, where it was not asked to
        self.blocked_by: dict[Dependency, str] = {}  # what holds the batch in hand, and why; empty while nothing does

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, prepared: Prepared, timeout_s: float) -> bool:
        """Hand a batch over; False when there was no room for it in time."""
        try:
            self._queue.put(prepared, timeout=timeout_s)
        except Full:
            return False
        return True

    def close(self, grace_s: float) -> None:
        """Finish the batch in hand, within the grace; what only waits stays unapplied, and will be read again."""
        self._closing.set()
        with contextlib.suppress(Full):  # then it does not sleep on the queue either
            self._queue.put_nowait(None)
        self._thread.join(grace_s)
        self._give_up.set()
        self._thread.join(_LAST_CALL_S)

    def _run(self) -> None:
        try:
            while (prepared := self._queue.get()) is not None and not self._closing.is_set():
                started, started_s = monotonic(), wall_clock_s()
                applied = self._write(prepared)
                if applied is None:
                    return
                self._count(prepared, applied)
                self._metrics.batch_seconds.labels(prepared.application.use_case).observe(monotonic() - started)
                self._settled(prepared.batch, applied.outcome)
                if self._tracer.recording:
                    self._trace(prepared, applied, started_s)
        except Exception as error:  # noqa: BLE001 - the polling thread raises it
            self.failure = error

    def _write(self, prepared: Prepared) -> Applied | None:
        """Bury, then apply; None when the grace ran out first."""
        application = prepared.application
        buried, failures = not prepared.letters, 0
        while not self._give_up.is_set():
            waiting_for: Literal["store", "log"] = "store" if buried else "log"
            try:
                if not buried:
                    self._dead_letters.write(application.use_case, prepared.letters)
                    buried, waiting_for = True, "store"
                    reach("apply.buried")
                reach("apply.read")
                applied = self._buffer.apply(application)
                reach("apply.applied")
            except (StoreUnavailableError, LogUnavailableError, CorruptItemError) as error:
                failures += 1
                self.blocked_by = {"redis" if waiting_for == "store" else "log": str(error)}
                self._metrics.retries.labels(application.use_case, waiting_for).inc()
                delay_s = self._backoff.delay_s(failures, self._rng)
                _log.warning(
                    "ingest is blocked", waiting_for=waiting_for, why=str(error), failures=failures, retry_s=delay_s
                )
                self._give_up.wait(delay_s)
            else:
                self.blocked_by = {}
                return applied
        return None

    def _trace(self, prepared: Prepared, applied: Applied, started_s: float) -> None:
        """A span of the batch, linked with the requests whose events it holds; none where nobody traces those."""
        batch = prepared.batch
        links = [context for record in batch.records if (context := _context(record)) is not None and context.sampled]
        if links:
            said: Attributes = {
                names.MESSAGING_OPERATION: "process",
                names.MESSAGING_DESTINATION: batch.slot.topic,
                names.MESSAGING_PARTITION: str(batch.slot.partition),
                names.MESSAGING_COUNT: len(batch.records),
                "understudy.offset": int(batch.records[0].offset),
                "understudy.dead_letters": len(prepared.letters),
            }
            self._tracer.record(
                f"process {batch.slot.topic}",
                "consumer",
                said,
                start_s=started_s,
                end_s=wall_clock_s(),
                links=links[:_MOST_LINKS],
                error_type=None if applied.outcome == "ok" else applied.outcome,
            )

    def _count(self, prepared: Prepared, applied: Applied) -> None:
        application = prepared.application
        use_case = application.use_case
        if applied.outcome != "ok":
            self._metrics.refused.labels(use_case, applied.outcome).inc()
            _log.warning("a batch was refused", outcome=applied.outcome, slot=application.slot, stored=applied.position)
            return
        self._metrics.records.labels(use_case).inc(len(prepared.batch.records))
        for entry in application.entries:
            self._metrics.events.labels(entry.lane.tenant, use_case).inc()
        for reason, count in application.dead.items():
            self._metrics.dead_letters.labels(use_case, reason).inc(count)
        for letter in prepared.letters:
            self._metrics.unusable.labels(letter.tenant or UNREADABLE, use_case, letter.fault.reason).inc()
        for tenant, count in prepared.other_prompts.items():
            self._metrics.unusable.labels(tenant, use_case, OTHER_PROMPT).inc(count)


def _context(record: Record) -> Context | None:
    """The trace context that a record came with."""
    found = next((value for name, value in record.headers if name == "traceparent"), None)
    return None if found is None else context_of(found.decode("ascii", "replace"))
