"""`understudy import LOG`: a first student from a log that the user already has.

Rows become escalations of the reason `cold` with propensity 1. An event's id is a function of the lane and of the row
(its `id`, else its text and how often the text came before), so importing a file twice, or a longer copy of it, counts
each row once.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ops.cli.reports import ImportReport
from ops.imports.jsonl import (
    ID_COLUMNS,
    LABEL,
    TEXT,
    BadRow,
    Survey,
    event_time_s,
    json_rows,
    label_of,
    text_of,
    value_at,
)
from store.buffer.ledger import BEGINNING, Slot
from store.errors import LogUnavailableError
from store.event import (
    MAX_EVENT_BYTES,
    ClassifyEscalation,
    EscalationCause,
    LabelAnswer,
    Lane,
    TextInput,
    canonical_text,
    encode,
    utc,
)
from store.secrets import item_id
from stream.log import Appender, topic_of

_NAMESPACE: Final = uuid.UUID("b54a5b0e-6d1e-5c5f-8f43-6c9a4d0b7a02")
_IN_FLIGHT: Final = 1000
_ACK_S: Final = 30.0
_NAMED_BAD: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where a row keeps its text and the teacher's label; a dot goes into an object."""

    text: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One good row."""

    line: int
    key: str  # what makes it the same row when it is imported again
    text: str
    label: str
    time_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportLane:
    """The lane that the rows go to."""

    lane: Lane
    labels: frozenset[str]
    lane_key: bytes = field(repr=False)
    redact: Callable[[TextInput], TextInput]
    model: str
    prompt_version: str


def find_columns(path: Path, *, text: str | None, label: str | None) -> Columns:
    """The columns that hold text and label, by all rows unless they are named.

    Raises:
        SettingsError: they cannot be told, or no row has the named one; the message names the flag.
    """
    texts, labels = TEXT.called(text), LABEL.called(label)
    survey = Survey(path, texts, labels)
    return Columns(text=survey.needed(texts), label=survey.needed(labels))


def read_rows(path: Path, columns: Columns, labels: frozenset[str] | None) -> Iterator[Row | BadRow]:
    """Every row of the file, good or bad, in order. `labels` are those that count, None for any."""
    seen: dict[str, int] = {}
    for line, value in json_rows(path):
        if isinstance(value, BadRow):
            yield value
            continue
        if not isinstance(value, Mapping):
            yield BadRow(line=line, why="not a JSON object")
            continue
        text, label = text_of(value_at(value, columns.text)), label_of(value_at(value, columns.label))
        if text is None:
            yield BadRow(line=line, why=f"no text in {columns.text}")
        elif label is None:
            yield BadRow(line=line, why=f"no label in {columns.label}")
        elif labels is not None and label not in labels:
            yield BadRow(line=line, why=f"{columns.label} is not one of the lane's labels")
        else:
            yield Row(line=line, key=_key(value, text, label, seen), text=text, label=label, time_s=event_time_s(value))


def publish_rows(
    rows: Iterator[Row | BadRow],
    lane: ImportLane,
    appender: Appender,
    *,
    undated_s: float,
    oldest_s: float,
    seen: Callable[[], None],
) -> tuple[int, list[BadRow]]:
    """Publish the good rows and wait for every acknowledgement; (published, bad rows).

    Args:
        rows: of `read_rows`.
        lane: where they go.
        appender: the log; the lane's topic is there.
        undated_s: event time of rows that have none, Unix seconds: long enough ago to be out of quarantine.
        oldest_s: a row from before this would be a dead letter, Unix seconds.
        seen: called once a row, for a progress bar.

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
        event = to_event(row, lane, undated_s)
        value = encode(event)
        if len(value) > MAX_EVENT_BYTES or event.time_s < oldest_s:
            why = "too old to be learned from" if event.time_s < oldest_s else f"{len(value)} bytes as an event"
            bad.append(BadRow(line=row.line, why=why))
            continue
        key = item_id(lane.lane_key, "classify", event.input).encode()
        in_flight.append((row.line, appender.append(topic_of(lane.lane.use_case), key=key, value=value)))
        published += 1
        if len(in_flight) >= _IN_FLIGHT:
            _acknowledged(*in_flight.popleft())
    while in_flight:
        _acknowledged(*in_flight.popleft())
    return published, bad


def await_applied(
    ends: Mapping[Slot, str], positions: Callable[[], Mapping[Slot, str]], *, stalled_s: float, poll_s: float = 0.2
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


def to_event(row: Row, lane: ImportLane, undated_s: float) -> ClassifyEscalation:
    """The escalation that a row stands for."""
    return ClassifyEscalation(
        id=str(uuid.uuid5(_NAMESPACE, f"{lane.lane}\x1f{row.key}")),
        time=utc(undated_s if row.time_s is None else row.time_s),
        use_case=lane.lane.use_case,
        tenant=lane.lane.tenant,
        input=lane.redact(TextInput(text=row.text)),
        teacher=LabelAnswer(model=lane.model, prompt_version=lane.prompt_version, label=row.label),
        student=None,
        escalation=EscalationCause(reason="cold", threshold=None, propensity=1.0),
    )


def report(
    path: Path,
    lane: Lane,
    columns: Columns,
    published: int,
    bad: list[BadRow],
    *,
    ingested: bool | None = None,
    cycle_asked: bool = False,
) -> ImportReport:
    """The report of an import."""
    return ImportReport(
        lane=str(lane),
        path=str(path),
        text_column=columns.text,
        label_column=columns.label,
        rows=published + len(bad),
        published=published,
        skipped=len(bad),
        ingested=ingested,
        cycle_asked=cycle_asked,
        bad=[{"line": row.line, "why": row.why} for row in bad[:_NAMED_BAD]],
    )


def _acknowledged(line: int, future: Future[None]) -> None:
    try:
        future.result(_ACK_S)
    except TimeoutError as error:
        message = f"the log did not acknowledge line {line} in {_ACK_S:.0f} s; import again: nothing counts twice"
        raise LogUnavailableError(message) from error


def _key(row: Mapping[str, Any], text: str, label: str, seen: dict[str, int]) -> str:
    """A row's identity: its id, else its text and label with how often they came before, wherever in the file."""
    for name in ID_COLUMNS:
        if isinstance(row.get(name), str | int):
            return f"id\x1f{row[name]}\x1f{canonical_text(text)}"
    said = f"{canonical_text(text)}\x1f{label}"
    seen[said] = seen.get(said, 0) + 1
    return f"text\x1f{said}\x1f{seen[said]}"
