"""What ops brings: for the process, and for each lane."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import openai

from serve.front.kept import Shared
from serve.metrics import ServeMetrics
from serve.request.parts import EventSink
from serve.settings import LaneSettings
from serve.student.loads import Versions
from serve.teacher.ledger import Ledger
from store.control import Heartbeat
from store.event import Lane, wall_clock_s
from store.money.tally import Write
from store.redact import Redact
from store.tracing.spans import OFF, Tracer


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneParts:
    """What ops brings for one lane."""

    settings: LaneSettings
    lane_key: bytes = field(repr=False)  # of its item ids
    redact: Redact  # with the lane's key
    subject_key: bytes = field(repr=False)  # of the tokens that stand for `user`
    audit_key: bytes = field(repr=False)  # of the draw of audits
    versions: Versions
    ledger: Ledger
    answers: Shared | None = None  # under Idempotency-Keys, for all replicas; None: each replica knows its own
    teacher_client: openai.AsyncOpenAI | None = None  # instead of one made from the settings
    spent_path: Path | None = None  # where the replica keeps what it spent of the budget, should Redis forget it
    tally_path: Path | None = None  # where it keeps what it has done while Redis does not take it


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What ops brings for the process."""

    lanes: Sequence[LaneParts]
    sink: EventSink
    announce: Callable[[Lane, Heartbeat], None]  # blocks; StoreUnavailableError while Redis does not answer
    swaps_path: Path  # swaps.jsonl
    metrics: ServeMetrics
    rng: Random  # event ids, and ids of leases and writers
    write: Write = field(default=lambda _lane, _batch: None)  # into the books
    now: Callable[[], float] = wall_clock_s
    tracer: Tracer = OFF
    vectors: Callable[[], tuple[int, int, int] | None] = lambda: None  # of documents: found, computed, kept; if any
