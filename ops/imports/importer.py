"""`understudy import LOG`: a first student from a log that the user already has.

Rows become escalations of the reason `cold` with propensity 1. An event's id is a function of the lane and of the row
(its `id`, else its text and how often the text came before), so importing a file twice, or a longer copy of it, counts
each row once.
"""

import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ops.cli.reports import ImportReport
from ops.imports.told import Told
from ops.readers.columns import Columns, id_of, label_of, nothing_in, text_of, value_at
from ops.readers.files import BadRow, rows_of
from ops.readers.times import moment_of
from store.answers.rules import NO_RULES, Rules
from store.buffer.ledger import BEGINNING, Slot
from store.errors import InvalidAnswerError, LogUnavailableError, TooLaboriousError
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
from store.labels import listed
from store.secrets import item_id
from store.tasks.classify import ClassifyRules
from stream.log import Appender, topic_of

_NAMESPACE: Final = uuid.UUID("b54a5b0e-6d1e-5c5f-8f43-6c9a4d0b7a02")
_IN_FLIGHT: Final = 1000
_ACK_S: Final = 30.0
_NAMED_BAD: Final = 20
_SHOWN_SAID: Final = 40
_NO_LABEL: Final = {
    "empty": "is empty",
    "off_list": "is not one of the lane's labels",
    "several": "names more than one of the lane's labels",
    "not_json": "is not one of the lane's labels",
    "truncated": "was cut before it was one of the lane's labels",
}


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
    labels: Collection[str]
    lane_key: bytes = field(repr=False)
    redact: Callable[[TextInput], TextInput]
    model: str
    prompt_version: str


def read_rows(
    path: Path,
    columns: Columns,
    labels: Collection[str] | None,
    told: Told | None = None,
    rules: Rules = NO_RULES,
) -> Iterator[Row | BadRow]:
    """Every row of the file, good or bad, in order.

    Args:
        path: the file.
        columns: of `find_columns`.
        labels: those that count, in the lane's order; an answer is read as the gateway reads it. None: any.
        told: notes what is to be said of the rows as a whole.
        rules: how labels are read that were on the list once; such an answer is kept as it was given.
    """
    told, seen = told or Told(), dict[str, int]()
    known = None if labels is None else tuple(labels)
    for line, value in rows_of(path):
        if isinstance(value, BadRow):
            yield value
            continue
        if not isinstance(value, Mapping):
            yield BadRow(line=line, why="not a JSON object")
            continue
        held = value_at(value, columns.text), value_at(value, columns.label)
        text, said = text_of(held[0]), label_of(held[1])
        if text is None:
            yield BadRow(line=line, why=nothing_in(columns.text, held[0], "text"))
            continue
        if said is None:
            yield BadRow(line=line, why=nothing_in(columns.label, held[1], "label"))
            continue
        label = _label(said, known, rules)
        if isinstance(label, InvalidAnswerError):
            told.unread[said if len(said) <= _SHOWN_SAID else ""] += 1
            yield BadRow(line=line, why=f"{columns.label} {_NO_LABEL[label.kind]}")
            continue
        if known and rules.read(label, known) is None:
            yield BadRow(line=line, why=f"{columns.label} is a label that counts no more: a ruling tells so")
            continue
        moment = moment_of(value)
        if moment.fault == "outside":
            yield BadRow(line=line, why=f"the time in {moment.column} is outside of the years 1 to 9999, UTC")
            continue
        told.row(text, said, label, moment, held)
        yield Row(line=line, key=_key(value, text, label, seen, told), text=text, label=label, time_s=moment.time_s)


def publish_rows(
    rows: Iterator[Row | BadRow],
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
        rows: of `read_rows`.
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
        if row.time_s is not None and row.time_s > now_s:
            row = replace(row, time_s=None)  # noqa: PLW2901 - the same row, as it is imported
            if told is not None:
                told.future += 1
        try:
            event = to_event(row, lane, undated_s)
        except TooLaboriousError as error:
            bad.append(BadRow(line=row.line, why=str(error)))
            continue
        value = encode(event)
        if len(value) > MAX_EVENT_BYTES or event.time_s < oldest_s:
            why = "too old to be learned from" if event.time_s < oldest_s else f"{len(value)} bytes as an event"
            bad.append(BadRow(line=row.line, why=why))
            continue
        key = item_id(lane.lane_key, ClassifyRules(), event.input).encode()
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
    """The escalation that a row stands for; TooLaboriousError where its text cannot be redacted."""
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
    told: Told | None = None,
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
        notes=told.notes(columns.text, columns.label) if told is not None else [],
    )


def _acknowledged(line: int, future: Future[None]) -> None:
    try:
        future.result(_ACK_S)
    except TimeoutError as error:
        message = f"the log did not acknowledge line {line} in {_ACK_S:.0f} s; import again: nothing counts twice"
        raise LogUnavailableError(message) from error


def _label(said: str, known: tuple[str, ...] | None, rules: Rules) -> str | InvalidAnswerError:
    try:
        return said if known is None else listed(said, known, rules.earlier)
    except InvalidAnswerError as error:
        return error


def _key(row: Mapping[str, Any], text: str, label: str, seen: dict[str, int], told: Told) -> str:
    """A row's identity: its id, else its text and label with how often they came before, wherever in the file."""
    if (own := id_of(row)) is not None:
        told.id(own, text)
        return f"id\x1f{own}\x1f{canonical_text(text)}"
    said = f"{canonical_text(text)}\x1f{label}"
    seen[said] = seen.get(said, 0) + 1
    return f"text\x1f{said}\x1f{seen[said]}"
