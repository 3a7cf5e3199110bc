"""`understudy ingest skip`: a slot that stands still reads on where a person says.

Its position lies outside the log, or its next record is damaged or of a task that only a newer release keeps.

What is lost, or read twice, is worked out first and kept with the decision. Ingest looks every second, and goes on by
itself.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from ops.exits import RefusedError
from ops.reports import Skipped
from store.buffer.ledger import BEGINNING, Buffer, LogSlot
from store.buffer.repair.positions import Positions, Skip
from store.errors import DamagedRecordError, PositionOutsideLogError, StoreUnavailableError
from store.event import UnknownTask
from store.log.lazy import logger
from stream.ingest import read
from stream.log import History, topic_of
from stream.slots import start_offset

_ATTEMPTS: Final = 20
_MAX_UNREADABLE: Final = 10_000  # records in a row: a producer's batch holds fewer; the rest takes another skip
_log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A slot that cannot be read on by itself."""

    slot: LogSlot
    at: str
    begin: int
    end: int
    readable: int  # the first offset that can be read
    why: str

    def skip(self, to: str, *, who: str, why: str, now_s: float) -> Skip:
        """What reading on at `to` (beginning, end, or an offset) comes to.

        Raises:
            RefusedError: the offset is not in the log.
        """
        target = {"beginning": self.readable, "end": self.end}.get(to)
        if target is None:
            target = int(to) if to.isascii() and to.isdecimal() else -1
        if not self.readable <= target <= self.end:
            message = f"--to {to}: partition {self.slot.partition} can be read from {self.readable} to {self.end}"
            raise RefusedError(message)
        known = self.at.isascii() and self.at.isdecimal() and int(self.at) <= self.end
        first = int(self.at) if known else self.begin  # where nobody knows, all that is kept may be new or old
        return Skip(
            slot=self.slot,
            at=self.at,
            to=str(target),
            unread=(first, target) if target > first else (target, target),
            again=(target, target) if known else (target, self.end),
            who=who,
            why=why,
            at_s=now_s,
        )


def stopped(
    use_case: str, slot: LogSlot, at: str, history: Callable[[], AbstractContextManager[History]]
) -> Stopped | None:
    """What keeps a slot from being read at its position; None when nothing does.

    Args:
        use_case: whose topic it is.
        slot: the slot.
        at: its stored position.
        history: opens the log to read; anew for each try, because a reader that met damage is of no more use.

    Raises:
        LogUnavailableError: the log did not answer.
    """
    with history() as log:
        begin, end = (int(bound) for bound in log.bounds(slot))
    why, readable = "", begin
    try:
        readable = start_offset(slot, at, begin, end)
    except PositionOutsideLogError as error:
        why = str(error)
    unreadable = _unreadable(use_case, slot, readable, end, history)
    if unreadable is not None:
        why, readable = unreadable
    return Stopped(slot=slot, at=at, begin=begin, end=end, readable=readable, why=why) if why else None


def _unreadable(
    use_case: str, slot: LogSlot, offset: int, end: int, history: Callable[[], AbstractContextManager[History]]
) -> tuple[str, int] | None:
    """Why the record at an offset cannot be taken, and the first offset that can; None when it can."""
    why, place, last = "", offset, min(end, offset + _MAX_UNREADABLE)
    while place < last:
        try:
            with history() as log:
                for record in log.read(slot, str(place), str(last)):
                    found = read(record, use_case)
                    if not isinstance(found, UnknownTask):
                        return (why, place) if why else None
                    why = why or f"offset {record.offset} is {found.detail}"
                    place = record.offset + 1
            place = last
        except DamagedRecordError as error:
            why = why or str(error)
            place += 1
    return (why, last) if why else None


def survey(
    use_case: str, partition: int | None, buffer: Buffer, history: Callable[[], AbstractContextManager[History]]
) -> list[Stopped]:
    """Every slot of a use case (or one) that stands still.

    Raises:
        RefusedError: there is none, or no such partition.
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
    """
    with history() as log:
        slots = [slot for slot in log.slots(topic_of(use_case)) if partition in {None, slot.partition}]
    if not slots:
        message = f"the log has no {'topic' if partition is None else f'partition {partition}'} of {use_case}"
        raise RefusedError(message)
    positions = buffer.positions(use_case)
    found = [stopped(use_case, slot, positions.get(slot, BEGINNING), history) for slot in slots]
    if not (wrong := [one for one in found if one is not None]):
        message = f"nothing of {use_case} stands still: every position is in the log, and its record can be read"
        raise RefusedError(message)
    return wrong


def plan(wrong: list[Stopped], to: str, *, who: str, why: str, now_s: float) -> Iterator[Skipped]:
    """What `apply` would do."""
    for one in wrong:
        yield _shown(one, one.skip(to, who=who, why=why, now_s=now_s), done=False)


def apply(
    use_case: str,
    wrong: list[Stopped],
    to: str,
    *,
    buffer: Buffer,
    positions: Positions,
    history: Callable[[], AbstractContextManager[History]],
    who: str,
    why: str,
    now_s: float,
) -> Iterator[Skipped]:
    """Move each position under a fresh fence, so that nothing is applied between the look and the move.

    Raises:
        StoreUnavailableError: Redis did not answer, or others claim the slot all the time.
    """
    for found in wrong:
        one = found
        for _ in range(_ATTEMPTS):
            claim = buffer.claim(use_case, one.slot, "ingest skip")
            present = stopped(use_case, one.slot, claim.position, history)
            if present is None:
                break
            one = present
            skip = one.skip(to, who=who, why=why, now_s=now_s)
            if positions.move(use_case, skip, claim.fence):
                _log.warning("a position was moved", use_case=use_case, partition=one.slot.partition, skip=skip)
                yield _shown(one, skip, done=True)
                break
        else:
            message = f"partition {one.slot.partition} is claimed all the time: try again"
            raise StoreUnavailableError(message)


def _shown(one: Stopped, skip: Skip, *, done: bool) -> Skipped:
    lost = skip.unread[1] - skip.unread[0]
    again = skip.again[1] - skip.again[0]
    return Skipped(
        topic=one.slot.topic,
        partition=one.slot.partition,
        position=skip.at,
        begin=one.begin,
        end=one.end,
        to=skip.to,
        never_read=lost,
        read_again=again,
        why_stopped=one.why,
        done=done,
    )
