"""What stands in, in a replay, for the world outside: clock, traffic, teacher and log. All else is the service."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from serve.settings import BudgetSettings
from serve.student.line import Outcome, Ticket, TooLong
from serve.student.slot import Slot
from serve.teacher.client import Answered, Invalid, Reply
from store.buffer.item import Entry
from store.buffer.ledger import Application, Counters
from store.buffer.ledger import Slot as LogSlot
from store.buffer.memory import MemoryBuffer
from store.event import ClassifyEscalation, Escalation, LabelAnswer, Lane, TaskInput, Usage
from store.policy import Allowance, outright_calls
from store.student.classify import Student
from store.student.encoder import Encoder, FloatArray, TokenIds
from store.student.loaded import Opinion
from store.student.tuned import Tuned
from store.tasks.classify import ClassifyRules

MODEL: Final = "recorded"
PROMPT: Final = "log"
PROMPT_VERSION: Final = f"{MODEL}@{PROMPT}"
_AHEAD: Final = 64  # rows answered at once by the head
_TUNED_AHEAD: Final = 256  # by the fine-tuned member: it changes less often, and large batches waste less


@dataclass(slots=True, kw_only=True)
class Cursor:
    """Where the replay stands."""

    row: int = 0  # in the order of the run
    now_s: float = 0.0  # Unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """The log in the order of one run, with what never changes of its rows."""

    encoder: Encoder
    places: NDArray[np.int64]  # [n] rows of the log
    times_s: NDArray[np.float64]  # [n]
    texts: Sequence[str]  # [n] redacted
    labels: Sequence[str | None]  # [n] the teacher's
    item_ids: Sequence[str]  # [n]
    tokens: TokenIds  # [n]
    too_long: NDArray[np.bool_]  # [n]
    features: FloatArray  # [n, features]

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.texts)


class ReplayedForward:
    """The serving student's answers, from kept features, some rows ahead at a time.

    Looking ahead is only a way of computing: batches have fixed shapes, so what a row gets does not depend on the rows
    after it.
    """

    def __init__(self, stream: Stream, cursor: Cursor) -> None:
        """Answer for the row that the cursor stands at."""
        self._stream = stream
        self._cursor = cursor
        self._version = ""
        self._opinions: dict[int, Opinion] = {}
        self._tuned: Tuned | None = None
        self._logits: dict[int, FloatArray] = {}  # of the fine-tuned member, which outlives a change of the head

    @property
    def turn(self) -> int:
        """See `serve.request.parts.Forward`: a row is read at once."""
        return 1 << 30

    async def ask(self, slot: Slot, value: TaskInput, ticket: Ticket | None = None, *, tokens: int = 1) -> Outcome:  # noqa: ARG002 - the row is the cursor's
        """See `serve.request.parts.Forward`."""
        row = self._cursor.row
        if self._stream.too_long[row]:
            return TooLong()
        if slot.version != self._version or row not in self._opinions:
            if not isinstance(slot.student, Student):
                message = "a replay serves students of the trainer alone"
                raise TypeError(message)
            self._version, self._opinions = slot.version, self._look_ahead(slot.student, row)
        return self._opinions[row]

    def _look_ahead(self, student: Student, row: int) -> dict[int, Opinion]:
        stop = min(row + _AHEAD, self._stream.rows)
        logits = None
        if student.tuned is not None:
            logits = np.stack([self._tuned_logits(student.tuned, ahead) for ahead in range(row, stop)])
        said = student.opinions(student.predict_from(self._stream.features[row:stop], logits))
        return dict(zip(range(row, stop), said, strict=True))

    def _tuned_logits(self, tuned: Tuned, row: int) -> FloatArray:
        if tuned is not self._tuned:
            self._tuned, self._logits = tuned, {}
        if row not in self._logits:
            stop = min(row + _TUNED_AHEAD, self._stream.rows)
            found = tuned.logits(self._stream.tokens[row:stop], steady=True)
            self._logits.update(zip(range(row, stop), found, strict=True))
        return self._logits[row]


class RecordedTeacher:
    """Says what the log says the teacher said, at once."""

    def __init__(self, stream: Stream, cursor: Cursor, usd_per_call: float) -> None:
        """Answer for the row that the cursor stands at."""
        self._stream = stream
        self._cursor = cursor
        self._usd_per_call = usd_per_call
        self.calls = 0
        self.unusable = 0

    @property
    def available(self) -> bool:
        """Always."""
        return True

    def cost_bound_usd(self, value: TaskInput) -> float:  # noqa: ARG002 - every call costs the same
        """See `serve.request.parts.Teaches`."""
        return self._usd_per_call

    async def ask(self, value: TaskInput, wanted: Callable[[], bool] = lambda: True) -> Reply:  # noqa: ARG002 - as above
        """The recorded answer; a row without a usable one costs its call and teaches nothing."""
        self.calls += 1
        label = self._stream.labels[self._cursor.row]
        if label is None:
            self.unusable += 1
            return Invalid(
                detail="the log has no usable answer", kind="empty", cost_usd=self._usd_per_call, usage=Usage()
            )
        return Answered(
            answer=LabelAnswer(model=MODEL, prompt_version=PROMPT, label=label, cost_usd=self._usd_per_call)
        )

    def stop_asking(self) -> None:
        """Nothing ever waits for its turn."""

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(slots=True, kw_only=True)
class BufferSink:
    """Where accepted escalations go: straight into the replay buffer, each once."""

    lane: Lane
    buffer: MemoryBuffer
    _last: ClassifyEscalation | None = None
    _fence: int = field(init=False)
    _next: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Own the buffer's one slot."""
        self._fence = self.buffer.claim(self.lane.use_case, self._slot, "backtest").fence

    @property
    def _slot(self) -> LogSlot:
        return LogSlot(f"understudy.{self.lane.use_case}", "backtest", 0)

    @property
    def healthy(self) -> bool:
        """Always."""
        return True

    async def start(self) -> None:
        """Nothing to begin."""

    async def publish(self, event: Escalation, item_id: str, *, traceparent: str | None = None) -> None:  # noqa: ARG002
        """Apply it."""
        start = "-1" if self._next == 0 else str(self._next)
        self._next += 1
        applied = self.buffer.apply(
            Application(
                use_case=self.lane.use_case,
                slot=self._slot,
                fence=self._fence,
                start=start,
                next=str(self._next),
                entries=(Entry.of(event, item_id, ClassifyRules()),),
            )
        )
        if applied.outcome != "ok":
            message = f"the buffer answered {applied.outcome}"
            raise RuntimeError(message)
        self._last = event if isinstance(event, ClassifyEscalation) else None

    async def close(self) -> None:
        """Nothing to end."""

    def take(self) -> ClassifyEscalation | None:
        """The event that was published since the last time, if any."""
        event, self._last = self._last, None
        return event

    @property
    def counters(self) -> Counters:
        """Where the lane's records went."""
        return self.buffer.counters(self.lane)


@contextmanager
def errors_alone() -> Iterator[None]:
    """Errors alone are logged, to standard error: a replay counts unusable answers, and its output is the result."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)


@dataclass(slots=True, kw_only=True)
class LogHorizon:
    """What is left for escalations of a budget for the whole log, given its length or a forecast of it."""

    budget: int
    audit_ratio: float
    reserved: int  # calls that the ledger keeps for audits
    forecast_rows: float
    teacher: RecordedTeacher
    cursor: Cursor

    def allowance(self) -> Allowance:
        """See `serve.routing.budget.Horizon`. A log longer than forecast is always about to end."""
        rows_left = max(1.0, self.forecast_rows - self.cursor.row)
        left = self.budget - self.teacher.calls
        never_audited = max(0.0, self.reserved - self._audits(self.forecast_rows, self.budget))
        for_escalations = max(0, round(left - self._audits(rows_left, left) - never_audited))
        return Allowance(
            calls_left=for_escalations,
            rows_left=rows_left,
            bought=self.teacher.calls,
            first=outright_calls(self.teacher.calls + for_escalations, self.forecast_rows),
        )

    def ledger_answered(self) -> None:
        """See `serve.routing.budget.Horizon`: a replay begins with nothing spent."""

    def change(self, budget: BudgetSettings, audit_ratio: float) -> None:
        """See `serve.routing.budget.Horizon`: a replay's budget does not change."""

    def _audits(self, rows: float, calls: int) -> float:
        """How many of the calls audits take: a share of the rows that escalations leave to the student."""
        ratio = self.audit_ratio
        return min(float(calls), ratio * max(0.0, rows - calls) / (1.0 - ratio)) if ratio < 1.0 else float(calls)
