"""The ingest loop: poll, decode, redact, identify; bury the dead; apply each batch once; say so to the log.

A permanent fault is a dead letter at once. A transient one blocks and is never a dead letter; an event of a task that a
newer release knows blocks its partition alone. A full writer holds the partitions while polling goes on, so that the
group never takes them away for it.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from time import monotonic
from typing import Final

import msgspec

from store.buffer.item import Entry
from store.buffer.ledger import Application, Buffer, LogSlot
from store.errors import InvalidAnswerError, TooLaboriousError, WrongShapeError
from store.event import (
    MAX_AHEAD_S,
    DeadReason,
    Escalation,
    Lane,
    Task,
    Undecodable,
    UnknownTask,
    decode,
    tenant_named,
    wall_clock_s,
)
from store.log.lazy import logger
from store.retry.backoff import Backoff
from store.secrets import DataSecret, item_id, subject_token
from store.tasks.tasks import TASKS, LaneTerms
from store.tracing.spans import OFF, Tracer
from stream.dead_letter import DeadLetters, Letter
from stream.log import Appender, Batch, CommitOutcome, Record, Source
from stream.metrics import IngestMetrics, Reporter
from stream.reading.standstill import Standstills
from stream.writer import Prepared, Writer

_log = logger(__name__)
_MAX_TOLD: Final = 100  # other prompts, each a log line
_SHOWN_CHARS: Final = 200  # of one
_BURIED_AS: Final[Mapping[type[Exception], DeadReason]] = {
    InvalidAnswerError: "off_list",
    WrongShapeError: "wrong_shape",
    TooLaboriousError: "unredactable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneKeys:
    """What ingest has to know of a lane."""

    lane_key: bytes = field(repr=False)
    redaction_key: bytes = field(repr=False)
    subject_key: bytes = field(repr=False)
    task: Task
    training_permitted: bool  # false: its events are counted, and not kept
    terms: LaneTerms = field(default_factory=LaneTerms)
    prompts: tuple[str, ...] = ()  # `model@prompt version` that counts, the present one first; none: not compared


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """How ingest reads and waits."""

    max_records: int = 2000  # per poll
    max_batch_bytes: int = 16 << 20  # per application: Redis refuses arguments past 512 MB
    poll_s: float = 0.5
    patience_s: float = 0.5  # how long a full writer is waited for before the partitions are held
    max_age_s: float = 3650 * 86_400.0  # an event older than this when the log took it is a dead letter
    grace_s: float = 20.0  # for the batch in hand, after a stop
    report_every_s: float = 5.0
    ack_timeout_s: float = 30.0  # for dead letters
    backoff: Backoff = field(default_factory=Backoff)


def read(record: Record, use_case: str) -> Escalation | Undecodable | UnknownTask:
    """What a record says, whatever the lanes are. What is on a wrong topic stays wrong in every release."""
    event = decode(record.value)
    if isinstance(event, Undecodable):
        return event
    if event.use_case != use_case:
        return Undecodable(reason="wrong_use_case", detail=f"{event.use_case} on the topic of {use_case}")
    if not isinstance(event, UnknownTask) and event.task not in TASKS:
        return UnknownTask(task=event.task, use_case=use_case)
    return event


def triage(
    record: Record, *, use_case: str, lanes: Mapping[Lane, LaneKeys], max_age_s: float
) -> Entry | Undecodable | UnknownTask:
    """What a record is: an event of a question, dead, or for a newer release. Pure: its age is by its own time."""
    event = read(record, use_case)
    if isinstance(event, Undecodable | UnknownTask):
        return event
    fault = _fault(event, lanes) or _misdated(event, record, max_age_s)
    if fault is not None:
        return fault
    keys = lanes[event.lane]
    rules = TASKS[keys.task](keys.terms)
    try:
        normal = rules.normal(event, keys.redaction_key)
    except (InvalidAnswerError, WrongShapeError, TooLaboriousError) as error:
        return Undecodable(reason=_BURIED_AS[type(error)], detail=str(error))
    kept = msgspec.structs.replace(
        normal,
        subject=None if event.subject is None else subject_token(keys.subject_key, event.subject),
        eligible=event.eligible and keys.training_permitted,
    )
    return Entry.of(kept, item_id(keys.lane_key, rules, kept.input), rules)


def pieces(batch: Batch, max_bytes: int) -> list[Batch]:
    """The batch as consecutive batches of at most `max_bytes` of values each, or of one record."""
    cuts, size_bytes = [0], 0
    for index, record in enumerate(batch.records):
        if index > cuts[-1] and size_bytes + len(record.value) > max_bytes:
            cuts.append(index)
            size_bytes = 0
        size_bytes += len(record.value)
    bounds = [batch.start, *(str(batch.records[cut].offset) for cut in cuts[1:]), batch.next]
    return [
        replace(batch, start=start, next=end, records=batch.records[first:last])
        for start, end, first, last in zip(bounds, bounds[1:], cuts, [*cuts[1:], len(batch.records)], strict=False)
    ]


def _cut(batch: Batch, count: int) -> tuple[Batch, Batch]:
    """The first records of a batch, which may be none, and those that follow."""
    at = str(batch.records[count].offset) if count else batch.start
    head = replace(batch, next=at, records=batch.records[:count])
    return head, replace(batch, start=at, records=batch.records[count:])


def _fault(event: Escalation, lanes: Mapping[Lane, LaneKeys]) -> Undecodable | None:
    """Why a well-formed event does not belong here."""
    if (keys := lanes.get(event.lane)) is None:
        return Undecodable(reason="unknown_lane", detail=f"no lane {event.lane} in the settings")
    if keys.task != event.task:
        return Undecodable(reason="wrong_shape", detail=f"a {event.task} event, {event.lane} takes {keys.task}")
    return None


def _misdated(event: Escalation, record: Record, max_age_s: float) -> Undecodable | None:
    """Why an event's time cannot be right; a producer may give its records no time, and then nobody can tell."""
    if record.timestamp_ms <= 0:
        return None
    age_s = record.timestamp_ms / 1000 - event.time_s
    if age_s > max_age_s:
        return Undecodable(
            reason="too_old", detail=f"{_days(age_s)} old when the log took it, {_days(max_age_s)} are allowed"
        )
    if -age_s > MAX_AHEAD_S:
        detail = f"dated {_days(-age_s)} after the log took it, {_days(MAX_AHEAD_S)} are allowed"
        return Undecodable(reason="in_future", detail=detail)
    return None


def _days(seconds: float) -> str:
    return f"{seconds / 86_400:,.1f} days"


class Ingest:
    """One use case's ingest: `run` until stopped."""

    def __init__(
        self,
        source: Source,
        buffer: Buffer,
        appender: Appender,
        *,
        use_case: str,
        lanes: Mapping[Lane, LaneKeys],
        secret: DataSecret,
        settings: IngestSettings,
        metrics: IngestMetrics,
        rng: Random,
        tracer: Tracer = OFF,
        clock: Callable[[], float] = wall_clock_s,
    ) -> None:
        """Read `source` into `buffer`; dead letters go through `appender`. The caller closes buffer and appender."""
        self._source = source
        self._buffer = buffer
        self._use_case = use_case
        self._lanes = lanes
        self._settings = settings
        self._metrics = metrics
        self._writer = Writer(
            buffer,
            DeadLetters(appender, secret, ack_timeout_s=settings.ack_timeout_s),
            self._settle,
            metrics=metrics,
            backoff=settings.backoff,
            rng=rng,
            tracer=tracer,
        )
        self._waiting: deque[Batch] = deque()
        self._triaged: list[Entry | Undecodable] = []  # of the first that waits, so far
        self._standing = Standstills(settings.backoff, rng)
        self._prepared: Prepared | None = None  # of the first that waits
        self._held: tuple[LogSlot, ...] | None = ()  # None: all
        self._told: set[tuple[Lane, str]] = set()  # other prompts that the log names
        self._polled = False
        self._reporter = Reporter(
            source,
            buffer,
            lambda: self._writer.blocked_by,
            lambda: self._standing.why,
            use_case=use_case,
            lanes=list(lanes),
            metrics=metrics,
            every_s=settings.report_every_s,
            clock=clock,
        )
        self.last_tick_s = monotonic()  # when the loop last went round; for /livez

    @property
    def ready(self) -> bool:
        """Whether the loop polls and nothing keeps it from taking what comes."""
        return not self.troubles

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why it is not ready, a line each; it asks nobody and returns at once."""
        polls = self._polled and self._writer.failure is None
        return (*(() if polls else (f"{self._use_case}: it does not poll",)), *self._reporter.troubles)

    def run(self, stop: threading.Event) -> None:
        """Ingest until `stop` is set; then finish the batch in hand, within the grace, and leave the group.

        A slot that a person must decide about stands still, and the others go on; so does all else that was foreseen.
        """
        self._writer.start()
        self._reporter.start()
        try:
            while not stop.is_set() and self._writer.failure is None:
                self._tick()
        finally:
            self._polled = False
            self._writer.close(self._settings.grace_s)
            self._reporter.close()
            self._source.close()
        if self._writer.failure is not None:
            _log.error("ingest stops", use_case=self._use_case, why=str(self._writer.failure))
            raise self._writer.failure

    def _tick(self) -> None:
        """Go round once: feed the writer, poll."""
        self.last_tick_s = monotonic()
        self._feed()
        for batch in self._standing.due(monotonic()):
            self._source.done(batch, "moved")  # claimed and read again: a person may have skipped it
        held = None if self._waiting else self._standing.held
        if held != self._held:
            self._held = held
            self._source.hold(held)
        for batch in self._source.poll(0.0 if held is None else self._settings.poll_s, self._settings.max_records):
            self._waiting += pieces(batch, self._settings.max_batch_bytes)
        self._polled = True

    def _feed(self) -> None:
        """Give the writer what waits. While it is full, or records take long, the loop goes round in between."""
        until_s = monotonic() + self._settings.patience_s
        while self._waiting:
            if self._prepared is None:
                if self._standing.precedes(self._waiting[0]):
                    self._waiting.popleft()  # read before its slot stood still: it will be read again
                    continue
                if (batch := self._triage(self._waiting[0], until_s)) is None:
                    return
                if not batch.records:
                    self._waiting.popleft()
                    continue
                self._prepared = self._prepare(batch)
            if not self._writer.put(self._prepared, self._settings.patience_s):
                return
            self._waiting.popleft()
            self._prepared = None

    def _triage(self, batch: Batch, until_s: float) -> Batch | None:
        """Go on with the batch's records, one at the least; what of it can be written, or None while that is unknown.

        At an event of a task to come the slot stands still: what precedes it is written, and the rest is read again.
        """
        for record in batch.records[len(self._triaged) :]:
            found = triage(record, use_case=self._use_case, lanes=self._lanes, max_age_s=self._settings.max_age_s)
            if isinstance(found, UnknownTask):
                before, rest = _cut(batch, len(self._triaged))
                why = f"offset {record.offset} is {found.detail}; `understudy ingest skip` leaves it out"
                self._standing.stop(rest, why, monotonic())
                return before
            self._triaged.append(found)
            if monotonic() >= until_s:
                break
        if len(self._triaged) < len(batch.records):
            return None
        self._standing.passed(batch.slot)
        return batch

    def _prepare(self, batch: Batch) -> Prepared:
        entries: list[Entry] = []
        letters: list[Letter] = []
        for record, found in zip(batch.records, self._triaged, strict=True):
            match found:
                case Entry():
                    entries.append(found)
                case Undecodable():
                    tenant = tenant_named(record.value) or ""
                    known = Lane(tenant, self._use_case) in self._lanes
                    letters.append(Letter(slot=batch.slot, record=record, fault=found, tenant=tenant if known else ""))
        self._triaged = []
        dead: Counter[DeadReason] = Counter(letter.fault.reason for letter in letters)
        application = Application(
            use_case=self._use_case,
            slot=batch.slot,
            fence=batch.fence,
            start=batch.start,
            next=batch.next,
            entries=tuple(entries),
            dead=dead,
        )
        others = self._of_other_prompts(entries)
        return Prepared(batch=batch, application=application, letters=tuple(letters), other_prompts=others)

    def _of_other_prompts(self, entries: list[Entry]) -> Counter[str]:
        """How many answers were given under another prompt than the lane has now, by tenant; each is told once."""
        found: Counter[str] = Counter()
        for entry in entries:
            prompts, teacher = self._lanes[entry.lane].prompts, entry.event.teacher
            given = f"{teacher.model}@{teacher.prompt_version}"
            if not prompts or given in prompts:
                continue
            found[entry.lane.tenant] += 1
            if (entry.lane, given) not in self._told and len(self._told) < _MAX_TOLD:
                self._told.add((entry.lane, given))
                _log.warning(
                    "answers of another prompt are kept, and not learned from: a producer sends another model or"
                    " prompt_version than the settings come to, or ingest runs with older settings than the gateways",
                    lane=str(entry.lane),
                    given=given[:_SHOWN_CHARS],
                    wanted=prompts[0],
                )
        return found

    def _settle(self, batch: Batch, outcome: CommitOutcome) -> None:
        """Called by the writer."""
        self._source.done(batch, outcome)
        if outcome == "ok":
            self._reporter.progressed()
