"""Events, entries and batches for the suites that run against more than one implementation."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from store.buffer.item import Entry
from store.buffer.ledger import Application, Applied, Buffer, Claim, Counters, LogSlot
from store.event import (
    ClassifyEscalation,
    DeadReason,
    EscalationCause,
    LabelAnswer,
    Lane,
    Reason,
    StudentOpinion,
    TextInput,
    new_event_id,
    utc,
)
from store.secrets import item_id
from store.tasks.classify import ClassifyRules

LANE = Lane("acme", "support")
START_S = 1_700_000_000.0


def escalation(
    text: str,
    *,
    label: str = "refund",
    number: int = 0,
    lane: Lane = LANE,
    reason: Reason = "low_confidence",
    student: str | None = "refund",
    version: str = "v1",
    eligible: bool = True,
    time_s: float | None = None,
) -> ClassifyEscalation:
    """An event whose id and time are functions of `number`."""
    now_s = START_S + number if time_s is None else time_s
    return ClassifyEscalation(
        id=new_event_id(now_s, Random(number)),
        time=utc(now_s),
        use_case=lane.use_case,
        tenant=lane.tenant,
        input=TextInput(text=text),
        teacher=LabelAnswer(model="teacher-1", prompt_version="p1", label=label),
        student=None if student is None else StudentOpinion(version=version, output=student, confidence=0.5),
        escalation=EscalationCause(reason=reason, threshold=0.8, propensity=0.1 if reason == "audit" else 1.0),
        eligible=eligible,
    )


def entry(event: ClassifyEscalation) -> Entry:
    """The event with its identity."""
    rules = ClassifyRules()
    return Entry.of(event, item_id(str(event.lane).encode(), rules, event.input), rules)


def slot(partition: int, use_case: str = "support") -> LogSlot:
    """A partition of a topic whose UUID never changes."""
    return LogSlot(f"understudy.{use_case}", str(uuid.UUID(int=7)), partition)


class Partition:
    """One partition's reader: claims, then applies batches one after the other from where it stands."""

    def __init__(self, buffer: Buffer, partition: int, use_case: str = "support") -> None:
        self.buffer = buffer
        self.slot = slot(partition, use_case)
        self.use_case = use_case
        self.claimed: Claim = buffer.claim(use_case, self.slot, "test")
        self.position = self.claimed.position
        self.last: Application | None = None

    def batch(self, events: Sequence[ClassifyEscalation], dead: Mapping[DeadReason, int] | None = None) -> Application:
        """The next batch of this partition."""
        begin = 0 if self.position == "-1" else int(self.position)
        return Application(
            use_case=self.use_case,
            slot=self.slot,
            fence=self.claimed.fence,
            start=self.position,
            next=str(begin + len(events) + sum((dead or {}).values())),
            entries=tuple(map(entry, events)),
            dead=dead or {},
        )

    def apply(self, events: Sequence[ClassifyEscalation], dead: Mapping[DeadReason, int] | None = None) -> Applied:
        """Apply the next batch and step on."""
        self.last = self.batch(events, dead)
        applied = self.buffer.apply(self.last)
        self.position = applied.position
        return applied


def check_integrity(buffer: Buffer, use_case: str, lanes: Iterable[Lane], records: int) -> None:
    """Each record applied is in exactly one place, and nothing is counted that is not there."""
    total = sum(buffer.dead(use_case).values())
    for lane in lanes:
        counters: Counters = buffer.counters(lane)
        items = list(buffer.items(lane))
        assert [item.item_id for item in items] == sorted({item.item_id for item in items})
        assert counters.counted == sum(item.count for item in items) + counters.evicted
        assert all(sum(item.propensities.values()) == item.count for item in items)
        total += counters.counted + counters.repeats + counters.ineligible
    assert total == records
