"""`understudy import LOG`: a first student from a log that the user already has.

Rows become escalations of the reason `cold` with propensity 1. An event's id is a function of the lane and of the row
(its `id`, else its question and how often that came before), so importing a file twice, or a longer copy of it, counts
each row once.
"""

import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ops.readers.files import BadRow
from ops.readers.rows import LogRow, PublishedRows, Told
from ops.reports import ImportReport
from store.buffer.ledger import BEGINNING, LogSlot
from store.errors import LogUnavailableError, TooLaboriousError
from store.event import MAX_EVENT_BYTES, Escalation, EscalationCause, Lane, encode, utc
from store.secrets import item_id
from store.tasks.rules import TaskRules
from stream.log import Appender, topic_of

_NAMESPACE: Final = uuid.UUID("b54a5b0e-6d1e-5c5f-8f43-6c9a4d0b7a02")
_IN_FLIGHT: Final = 1000
_ACK_S: Final = 30.0
_NAMED_BAD: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportLane:
    """The lane that the rows go to."""

    lane: Lane
    rules: TaskRules
    lane_key: bytes = field(repr=False)
    redaction_key: bytes = field(repr=False)
    model: str
    prompt_version: str


def publish_rows(
    rows: Iterator[LogRow | BadRow],
    lane: ImportLane,
    appender: Appender,
    *,
    undated_s: float,
    oldest_s: float,
    seen: Callable[[], None],
    now_s: float = math.inf,
    told: Told | None = None,
) -> tuple[int, list[BadRow]]:
    """Publish the good rows and wait for every acknowledgement; (published, bad rows).

    Args:
        rows: of a `Reader`.
        lane: where they go.
        appender: the log; the lane's topic is there.
        undated_s: event time of rows that have none or one in the future, Unix seconds: long enough ago to be out of
            quarantine.
        oldest_s: a row from before this would be a dead letter, Unix seconds.
        seen: called once a row, for a progress bar.
        now_s: a row from after this is from the future, Unix seconds.
        told: notes them.

    Raises:
        LogUnavailableError: the log stopped acknowledging. Import again: what is there already counts once.
    """
    published, bad = 0, list[BadRow]()
    in_flight: deque[tuple[int, Future[None]]] = deque()
    for row in rows:
        seen()
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        dated = row.time_s is not None and row.time_s <= now_s
        if told is not None and row.time_s is not None and not dated:
            told.future += 1
        try:
            event = to_event(row, lane, row.time_s if dated and row.time_s is not None else undated_s)
        except TooLaboriousError as error:
            bad.append(BadRow(line=row.line, why=str(error)))
            continue
        value = encode(event)
        if len(value) > MAX_EVENT_BYTES or event.time_s < oldest_s:
            why = "too old to be learned from" if event.time_s < oldest_s else f"{len(value)} bytes as an event"
            bad.append(BadRow(line=row.line, why=why))
            continue
        key = item_id(lane.lane_key, lane.rules, event.input).encode()
        in_flight.append((row.line, appender.append(topic_of(lane.lane.use_case), key=key, value=value)))
        published += 1
        if len(in_flight) >= _IN_FLIGHT:
            _acknowledged(*in_flight.popleft())
    while in_flight:
        _acknowledged(*in_flight.popleft())
    return published, bad


def await_applied(
    ends: Mapping[LogSlot, str],
    positions: Callable[[], Mapping[LogSlot, str]],
    *,
    stalled_s: float,
    poll_s: float = 0.2,
) -> bool:
    """Wait until ingest has applied everything below `ends`; False once it has not moved for `stalled_s`."""
    moved_s, before = time.monotonic(), -1
    while True:
        stored = positions()
        reached = {slot: _number(stored.get(slot, BEGINNING)) for slot in ends}
        if all(reached[slot] >= int(end) for slot, end in ends.items() if int(end) > 0):
            return True
        if sum(reached.values()) != before:
            moved_s, before = time.monotonic(), sum(reached.values())
        elif time.monotonic() - moved_s > stalled_s:
            return False
        time.sleep(poll_s)


def _number(position: str) -> int:
    """A position as a number; before everything where it is damaged, and ingest stands still."""
    return int(position) if position.isdecimal() else int(BEGINNING)


def to_event(row: LogRow, lane: ImportLane, at_s: float) -> Escalation:
    """The escalation that a row stands for, as of a time (Unix seconds).

    Raises:
        TooLaboriousError: the question cannot be redacted.
        InvalidAnswerError, WrongShapeError: the answer is none that the lane takes.
    """
    facts = PublishedRows(
        id=str(uuid.uuid5(_NAMESPACE, f"{lane.lane}\x1f{row.key}")),
        time=utc(at_s),
        lane=lane.lane,
        model=lane.model,
        prompt_version=lane.prompt_version,
        cause=EscalationCause(reason="cold", threshold=None, propensity=1.0),
    )
    return lane.rules.normal(row.event(facts), lane.redaction_key)


def report(
    path: Path,
    lane: Lane,
    columns: Mapping[str, str],
    published: int,
    bad: list[BadRow],
    *,
    ingested: bool | None = None,
    cycle_asked: bool = False,
    told: Told | None = None,
) -> ImportReport:
    """The report of an import."""
    return ImportReport(
        lane=str(lane),
        path=str(path),
        columns=dict(columns),
        rows=published + len(bad),
        published=published,
        skipped=len(bad),
        ingested=ingested,
        cycle_asked=cycle_asked,
        bad=[{"line": row.line, "why": row.why} for row in bad[:_NAMED_BAD]],
        notes=told.notes if told is not None else [],
    )


def _acknowledged(line: int, future: Future[None]) -> None:
    try:
        future.result(_ACK_S)
    except TimeoutError as error:
        message = f"the log did not acknowledge line {line} in {_ACK_S:.0f} s; import again: nothing counts twice"
        raise LogUnavailableError(message) from error
