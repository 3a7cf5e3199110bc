"""An event and its records, for people: how it was decided, what it cost, and what became of it in the log."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from ops.letters.reading import letter_shown
from ops.site import Site
from ops.trace.log import Found, told_ms
from ops.trace.records import EventTold, Fate, LetterTold, RecordTold, StudentSaid, TeacherSaid
from serve.teacher.audit import audit_draw
from store.buffer.item import Entry
from store.buffer.ledger import BEGINNING, LogSlot
from store.buffer.repair.positions import Skip
from store.errors import TooLaboriousError
from store.event import Escalation, Reason
from store.letters.decisions import LetterDecision
from store.personal_data import TOKEN
from store.redact import redact
from store.tasks.rules import TaskRules
from stream.dead_letter import DeadLetter
from stream.log import Record

_WHY: Final[Mapping[Reason, str]] = {
    "cold": "no version served yet, so the teacher was asked",
    "low_confidence": "the student was less sure of itself than its threshold asks",
    "novel": "nothing like it was among what the student was trained on",
    "audit": "the student answered, and was drawn to be checked by the teacher",
    "bought": "one of the first answers, which a budget buys whatever the student says",
    "budget_margin": "one of the questions of which the student was least sure, which the budget pays for",
    "forced": "the client asked for the teacher by name",
    "too_long": "longer than the student reads",
    "unsupported": "it wants what no student of the lane can do",
    "student_down": "the student gave no answer: its forward pass failed or hung",
}


def event_told(site: Site, found: Found, entry: Entry | None, rules: TaskRules | None) -> EventTold:
    """The event for people; texts as they are kept.

    Args:
        site: whose keys draw audits.
        found: one of its records.
        entry: the event as it is kept; None: it is not, and its texts are not told.
        rules: of its lane; None: the settings have no such lane.
    """
    event = found.event if entry is None else entry.event
    texts = [] if entry is None or rules is None else rules.texts(entry.event.input)
    cause = event.escalation
    of_gateway = entry is not None and cause.reason == "audit"
    return EventTold(
        id=event.id,
        time=event.time.isoformat(),
        lane=str(event.lane),
        task=event.task,
        reason=cause.reason,
        why=_WHY[cause.reason],
        threshold=cause.threshold,
        propensity=cause.propensity,
        draw=audit_draw(site.secret.audit_key(event.lane), event.id, entry.item_id) if entry and of_gateway else None,
        eligible=event.eligible,
        subject=None if entry is None else entry.event.subject,
        input=None if entry is None else entry.event.input,
        redacted=dict(sorted(Counter(_kind(token) for text in texts for token in TOKEN.findall(text)).items())),
        student=_student(event, entry, site.secret.redaction_key(event.lane)),
        teacher=_teacher(event, entry, rules),
        trace_id=trace_id_of(found.record),
    )


def trace_id_of(record: Record) -> str | None:
    """The trace that a record's headers name."""
    value = dict(record.headers).get("traceparent", b"").decode("ascii", "replace").split("-")
    return value[1] if len(value) == 4 else None  # noqa: PLR2004 - version, trace, span, flags


def record_told(
    found: Found, position: str, skips: Sequence[Skip], letter: DeadLetter | None, *, again: bool
) -> RecordTold:
    """What became of one record.

    Args:
        found: the record.
        position: up to which its slot was applied.
        skips: decisions to read on elsewhere.
        letter: that it became.
        again: an earlier record holds the same event.
    """
    fate, told = _fate(found.slot, found.record.offset, position, skips, letter, again=again)
    replay = dict(found.record.headers).get("replay")
    return RecordTold(
        topic=found.slot.topic,
        partition=found.slot.partition,
        offset=found.record.offset,
        taken=told_ms(found.record.timestamp_ms) if found.record.timestamp_ms > 0 else None,
        fate=fate,
        told=told,
        replay_of=None if replay is None else replay.decode("ascii", "replace"),
    )


def letter_told(use_case: str, letter: DeadLetter, decision: LetterDecision | None) -> LetterTold:
    """A dead letter for people."""
    return LetterTold(
        letter=letter_shown(use_case, letter, decision),
        who=decision.who if decision else None,
        why=decision.why if decision else None,
        at=told_ms(decision.at_s * 1000) if decision else None,
    )


def _fate(
    slot: LogSlot, offset: int, position: str, skips: Sequence[Skip], letter: DeadLetter | None, *, again: bool
) -> tuple[Fate, str]:
    if letter is not None:
        return "dead", f"a dead letter, {letter.id}: {letter.reason}"
    skip = next((one for one in skips if one.slot == slot and one.unread[0] <= offset < one.unread[1]), None)
    if skip is not None:
        return "skipped", f"never read: {skip.who} let ingest read on at {skip.to} ({skip.why})"
    if position == BEGINNING or not position.isdecimal() or offset >= int(position):
        return "waiting", "ingest has not read it yet (`understudy lag`)"
    return "applied", "applied: a repeat, which the id tells" if again else "applied"


def _kind(token: str) -> str:
    return token[1:].partition(":")[0].lower()


def redacted(output: str, key: bytes) -> str | None:
    """What a student said: our own keep to redacted texts, but another producer may have put anything there."""
    try:
        return redact(output, key)
    except TooLaboriousError:
        return None


def _student(event: Escalation, entry: Entry | None, key: bytes) -> StudentSaid | None:
    if (said := event.student) is None:
        return None
    return StudentSaid(
        version=said.version,
        confidence=said.confidence,
        output=None if entry is None else redacted(said.output, key),
        agreed=None if entry is None else entry.agreed,
        judged_by=None if said.verdict is None else said.verdict.by,
    )


def _teacher(event: Escalation, entry: Entry | None, rules: TaskRules | None) -> TeacherSaid:
    teacher = event.teacher
    return TeacherSaid(
        model=teacher.model,
        prompt_version=teacher.prompt_version,
        answer=None if entry is None or rules is None else rules.shown(entry.said),
        prompt_tokens=teacher.usage.prompt_tokens,
        completion_tokens=teacher.usage.completion_tokens,
        cost_usd=teacher.cost_usd,
        latency_ms=teacher.latency_ms,
    )
