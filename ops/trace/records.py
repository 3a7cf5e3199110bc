"""What `understudy trace` answers; `-o json` prints it as it is. What is not known is null, and `notes` say why."""

from typing import Any, Literal

import msgspec

from ops.answers.kept import ItemShown
from ops.reports import LetterShown
from store.answers.rulings import RulingKind
from store.event import Reason, Task, TaskInput
from trainer.snapshot import Split

Named = Literal["event", "response", "item"]
Fate = Literal["applied", "waiting", "dead", "skipped"]
Held = Literal["counted", "aged_out", "ineligible", "not_there"]
Use = Literal["trained", "calibrated", "judged", "left_out", "frozen_before", "unknown"]


class StudentSaid(msgspec.Struct, frozen=True, kw_only=True):
    """What a student made of the question, before the teacher's answer was known."""

    version: str
    confidence: float
    output: str | None  # as it is kept; null for a record that is not
    agreed: bool | None  # with the teacher; null: nobody can tell
    judged_by: str | None  # of a text, where no rule tells: `distance` or `judge`


class TeacherSaid(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered, and at what price."""

    model: str
    prompt_version: str
    answer: Any  # as it is kept: a text, or JSON; null for a record that is not
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    latency_ms: float


class EventTold(msgspec.Struct, frozen=True, kw_only=True):
    """The event as the log has it. All texts are as they are kept: redacted."""

    id: str
    time: str  # when it was asked, RFC 3339
    lane: str
    task: Task
    reason: Reason
    why: str  # a sentence for it
    threshold: float | None  # of the version that decided
    propensity: float  # with which requests like it reach the teacher
    draw: float | None  # of an audit: what the lane's key draws for it; below the propensity it is audited
    eligible: bool  # may be learned from
    subject: str | None  # the token that stands for the client's `user`
    input: TaskInput | None  # null for a record that is not kept
    redacted: dict[str, int]  # kind of personal data -> how many values a token stands for
    student: StudentSaid | None
    teacher: TeacherSaid
    trace_id: str | None  # W3C, where the client sent a trace context or tracing is on


class RecordTold(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the log that holds the event."""

    topic: str
    partition: int
    offset: int
    taken: str | None  # when the log took it, RFC 3339; null: its producer gave it no time
    fate: Fate
    told: str  # a sentence for it
    replay_of: str | None  # id of the dead letter that was sent again


class LetterTold(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter of the event, and what was decided about it."""

    letter: LetterShown
    who: str | None
    why: str | None
    at: str | None  # RFC 3339


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """What a cycle would do with the item if it froze now."""

    split: Split | None  # null: it would be in none
    cluster: int | None  # of that freeze
    linked: list[str]  # items that are the same question in other words: they share its split
    why: str  # a sentence


class RulingTold(msgspec.Struct, frozen=True, kw_only=True):
    """What a person has decided about the item."""

    number: int
    kind: RulingKind
    who: str
    why: str
    at: str  # RFC 3339


class ItemTold(msgspec.Struct, frozen=True, kw_only=True):
    """The question in the replay buffer."""

    id: str
    kept: ItemShown | None  # null: it is not in the buffer now
    holds_event: Held | None  # null: an item was named, not an event
    told: str  # a sentence for it
    audits: int  # of its events, answers of a student that were put to the teacher at random
    events: list[str]  # the newest, oldest first
    ruling: RulingTold | None
    next: Next | None  # null: it is not kept, or nobody can tell


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which a version was the champion."""

    since: str  # RFC 3339
    until: str | None  # null: it is still


class VersionTold(msgspec.Struct, frozen=True, kw_only=True):
    """A version, and what it has to do with the item."""

    id: str
    created: str  # RFC 3339
    kind: str
    cycle: str | None  # that made it, where that is remembered
    use: Use
    told: str  # a sentence for it
    label: str | None  # as which the item's answer was frozen; null: it is in none, or a task without labels
    cluster: int | None  # of its snapshot
    linked: list[str]  # other items of that cluster
    with_event: bool | None  # whether this very event had been applied by then; null: its place in the log is not known
    parent: str | None  # whose fine-tuned member it kept or went on from
    verdict: str | None  # of the gate
    refusals: list[str]
    served: list[Term]


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """How far one use case's log was looked through."""

    topic: str
    records: int  # read
    since: str | None  # only records that the log took then or later, RFC 3339; null: from the beginning
    whole: bool  # the log still has its first record


class Traced(msgspec.Struct, frozen=True, kw_only=True):
    """One request's life."""

    named: Named
    id: str
    event: EventTold | None
    records: list[RecordTold]
    letters: list[LetterTold]
    item: ItemTold | None
    versions: list[VersionTold]  # oldest first
    cycles: list[str]  # since the event that came to no version, a sentence each, oldest first
    looked: list[Looked]
    notes: list[str]  # what is not known, and what to do, a sentence each
