"""Finds an event in the log and among the dead letters, through the readers that everybody has.

An id that holds its time bounds the search: the log took the record after that. Where in a partition this is, is found
by halving, as records stand in the order of their times but for what clocks differ by.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from ops.trace.names import Name
from ops.trace.records import Looked
from store.buffer.ledger import LogSlot
from store.errors import LogError
from store.event import Escalation, decode
from store.secrets import DataSecret
from stream.dead_letter import DeadLetter, read_dead_letters
from stream.log import History, Record, topic_of

_CLOCKS_MS: Final = 3_600_000  # that the clocks of a gateway and of the log may differ by
_FEW: Final = 2_000  # records, that are sooner read than looked for
_STEP: Final = 64  # offsets in which a halving expects a record


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One record that holds an event that is meant."""

    slot: LogSlot
    record: Record
    event: Escalation


@dataclass(frozen=True, slots=True, kw_only=True)
class Buried:
    """A dead letter that is meant."""

    letter: DeadLetter
    found: Found | None  # the event inside, where it can be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a use case's log holds of a name."""

    use_case: str
    found: list[Found]
    letters: list[Buried]
    looked: Looked
    misses_ms: int | None  # when the log took the oldest record that it still has, where it has lost older ones


@dataclass(slots=True, kw_only=True)
class _Seen:
    records: int = 0
    whole: bool = True
    bounded: bool = False
    oldest_ms: list[int] = field(default_factory=list)


def search(history: History, use_case: str, name: Name, secret: DataSecret, *, whole: bool) -> Search:
    """Look for the events whose id is, or begins with, a name.

    Args:
        history: the log.
        use_case: whose topics are read.
        name: what is meant.
        secret: which opens dead letters.
        whole: read the log from its beginning, whatever the id says.

    Raises:
        LogUnavailableError: the log did not answer.
    """
    since_ms = None if whole or name.asked_ms is None else name.asked_ms - _CLOCKS_MS
    seen = _Seen()
    found = [
        one for slot in history.slots(topic_of(use_case)) for one in _in_slot(history, slot, name.text, since_ms, seen)
    ]
    letters = [
        Buried(letter=letter, found=inside)
        for letter in read_dead_letters(history, use_case, secret)
        if (inside := _inside(letter, name.text)) is not None or _is_of(letter, found)
    ]
    looked = Looked(
        topic=topic_of(use_case),
        records=seen.records,
        since=told_ms(since_ms) if seen.bounded else None,
        whole=seen.whole,
    )
    return Search(
        use_case=use_case,
        found=found,
        letters=letters,
        looked=looked,
        misses_ms=max(seen.oldest_ms, default=None),
    )


def told_ms(unix_ms: float | None) -> str | None:
    """A time for programs, RFC 3339; None where there is none."""
    return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat()


def _in_slot(history: History, slot: LogSlot, text: str, since_ms: int | None, seen: _Seen) -> Iterator[Found]:
    begin, end = map(int, history.bounds(slot))
    if begin > 0:
        seen.whole = False
        if (oldest := _first(history, slot, begin, end)) is not None:
            seen.oldest_ms.append(oldest.timestamp_ms)
    start = begin
    if since_ms is not None and end - begin > _FEW:
        start = _since(history, slot, begin, end, since_ms)
        seen.bounded |= start > begin
    wanted = text.encode()
    for record in history.read(slot, str(start), str(end)):
        seen.records += 1
        if wanted in record.value and (event := _event(record.value, text)) is not None:
            yield Found(slot=slot, record=record, event=event)


def _since(history: History, slot: LogSlot, begin: int, end: int, since_ms: int) -> int:
    """An offset before which the log took everything earlier; a record without a time counts as late."""
    low, high = begin, end
    while high - low > _STEP:
        middle = (low + high) // 2
        record = _first(history, slot, middle, high)
        if record is None or not 0 < record.timestamp_ms < since_ms:
            high = middle
        else:
            low = record.offset
    return low


def _first(history: History, slot: LogSlot, start: int, end: int) -> Record | None:
    """The first record in [start, end)."""
    near = next(history.read(slot, str(start), str(min(start + _STEP, end))), None)
    return near or next(history.read(slot, str(start), str(end)), None)


def _event(value: bytes, text: str) -> Escalation | None:
    event = decode(value)
    return event if isinstance(event, Escalation) and event.id.startswith(text) else None


def _inside(letter: DeadLetter, text: str) -> Found | None:
    """The event in a letter, where its id begins so; None where it does not, or cannot be read."""
    try:
        record = letter.record()
    except LogError:
        return None
    event = _event(record.value, text) if text.encode() in record.value else None
    return None if event is None else Found(slot=letter.slot, record=record, event=event)


def _is_of(letter: DeadLetter, found: list[Found]) -> bool:
    return any(letter.slot == one.slot and letter.offset == one.record.offset for one in found)
