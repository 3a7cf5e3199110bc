"""What stands in, in a replay, for the world outside: clock, traffic, teacher and log. All else is the service."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from serve.settings import BudgetSettings
from serve.teacher.client import Answered, Invalid, Reply
from store.buffer.item import Entry
from store.buffer.ledger import Application, Counters, LogSlot
from store.buffer.memory import MemoryBuffer
from store.event import Escalation, Lane, TaskInput, TeacherAnswer, Usage
from store.policy import Allowance, outright_calls
from store.student.encoder import Encoder, FloatArray
from store.tasks.rules import TaskRules

MODEL: Final = "recorded"
PROMPT: Final = "log"
PROMPT_VERSION: Final = f"{MODEL}@{PROMPT}"
Teach = Callable[[str, str, str], TeacherAnswer]  # an answer as a log holds it, model, prompt version


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
    values: Sequence[TaskInput]  # [n] redacted, as they are kept
    labels: Sequence[str | None]  # [n] the teacher's answers
    item_ids: Sequence[str]  # [n]
    too_long: NDArray[np.bool_]  # [n]
    features: FloatArray  # [n, features]
    kept: Mapping[str, FloatArray] = field(default_factory=dict)  # numbers of texts by their keys

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.texts)


class RecordedTeacher:
    """Says what the log says the teacher said, at once."""

    def __init__(self, stream: Stream, cursor: Cursor, usd_per_call: float, teach: Teach) -> None:
        """Answer for the row that the cursor stands at; `teach` reads an answer as the log holds it."""
        self._stream = stream
        self._teach = teach
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

    async def ask(
        self,
        value: TaskInput,  # noqa: ARG002 - as above
        wanted: Callable[[], bool] = lambda: True,  # noqa: ARG002
        hear: Callable[[bytes], None] | None = None,  # noqa: ARG002 - nothing is streamed
    ) -> Reply:
        """The recorded answer; a row without a usable one costs its call and teaches nothing."""
        self.calls += 1
        label = self._stream.labels[self._cursor.row]
        if label is None:
            self.unusable += 1
            return Invalid(
                detail="the log has no usable answer", kind="empty", cost_usd=self._usd_per_call, usage=Usage()
            )
        answer = self._teach(label, MODEL, PROMPT)
        return Answered(answer=msgspec.structs.replace(answer, cost_usd=self._usd_per_call))

    def stop_asking(self) -> None:
        """Nothing ever waits for its turn."""

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(slots=True, kw_only=True)
class BufferSink:
    """Where accepted escalations go: straight into the replay buffer, each once."""

    lane: Lane
    buffer: MemoryBuffer
    rules: TaskRules
    _last: Escalation | None = None
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
                entries=(Entry.of(event, item_id, self.rules),),
            )
        )
        if applied.outcome != "ok":
            message = f"the buffer answered {applied.outcome}"
            raise RuntimeError(message)
        self._last = event

    async def close(self) -> None:
        """Nothing to end."""

    def take(self) -> Escalation | None:
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
