"""One request's life as lines for people; nothing is here that `-o json` has not."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ops.trace.records import EventTold, ItemTold, LetterTold, Looked, RecordTold, Term, VersionTold

_WIDE = 200  # characters of a text
_IDS = 3  # of linked items
Fields = Mapping[str, object]


def event_fields(one: EventTold) -> Fields:
    """The event, and how it was decided."""
    teacher, student = one.teacher, one.student
    fields: dict[str, object] = {
        "asked": f"{time_of(one.time)} of {one.lane} ({one.task})",
        "question": "not shown" if one.input is None else short(_question(one.input)),
        "personal data": ", ".join(f"{kind} {count}" for kind, count in one.redacted.items()) or "none was found",
        "sent to the teacher": f"{one.reason}: {one.why}",
        "propensity": f"{one.propensity:g}" + _draw(one),
        "student": "none was asked" if student is None else f"{student.version}, {student.confidence:.3f} sure"
        + ("" if one.threshold is None else f" (threshold {one.threshold:g})"),
    }  # fmt: skip
    if student is not None:
        said = "not shown" if student.output is None else short(student.output)
        agreed = {None: "", True: ", as the teacher", False: ", unlike the teacher"}[student.agreed]
        by = f", says the {student.judged_by}" if student.judged_by and agreed else ""
        fields["student said"] = f"{said}{agreed}{by}"
    fields |= {
        "teacher": f"{teacher.model}, prompt {teacher.prompt_version}",
        "teacher said": "not shown" if teacher.answer is None else short(_plain(teacher.answer)),
        "cost": f"${teacher.cost_usd:.6f}: {teacher.prompt_tokens:,} tokens in, {teacher.completion_tokens:,} out,"
        f" {teacher.latency_ms:,.0f} ms",
    }
    if not one.eligible:
        fields["learned from"] = "never: the event says so (the lane's training_permitted, or an answer of no use)"
    if one.subject is not None:
        fields["subject"] = one.subject
    if one.trace_id is not None:
        fields["trace"] = one.trace_id
    return fields


def record_rows(records: Sequence[RecordTold]) -> tuple[list[str], list[Sequence[object]]]:
    """Columns and rows of what became of it in the log."""
    rows: list[Sequence[object]] = [
        (
            f"{one.topic}/{one.partition}/{one.offset}",
            time_of(one.taken),
            one.told + (f"; letter {one.replay_of}, sent again" if one.replay_of else ""),
        )
        for one in records
    ]
    return ["record", "taken", "what became of it"], rows


def letter_lines(letters: Sequence[LetterTold]) -> Iterator[str]:
    """A line for each dead letter."""
    for one in letters:
        by = "" if one.who is None else f" by {one.who}, {time_of(one.at)}: {one.why}"
        yield f"dead letter {one.letter.id}, {one.letter.reason}: {one.letter.detail}; {one.letter.state}{by}"


def item_fields(one: ItemTold) -> Fields:
    """The item, as it is kept now."""
    fields: dict[str, object] = {"event": one.told}
    if (kept := one.kept) is not None:
        answers = ", ".join(f"{short(_plain(answer.answer))} ({answer.times})" for answer in kept.answers)
        fields |= {
            "question": short(_question(kept.input)),
            "state": kept.state,
            "answers that count": answers or "none",
            "stands for": f"{_times(kept.requests, 'request')}; {kept.asked} seen, {one.audits} of them by audit",
        }
    if one.ruling is not None:
        ruling = one.ruling
        fields["ruling"] = f"{ruling.kind} {ruling.number} by {ruling.who}, {time_of(ruling.at)}: {ruling.why}"
    if one.next is not None:
        fields["next cycle"] = one.next.why + _linked(one.next.linked)
    elif one.kept is not None:
        fields["next cycle"] = "cannot be told: what a cycle reads is not here"
    return fields


def version_rows(versions: Sequence[VersionTold]) -> tuple[list[str], list[Sequence[object]]]:
    """Columns and rows of the versions."""
    rows: list[Sequence[object]] = [
        (
            one.id,
            time_of(one.created),
            one.told
            + ("" if one.label is None else f"; as {short(one.label)}")
            + _linked(one.linked)
            + (f"; its fine-tuned member began with {one.parent}'s" if one.parent else ""),
            one.verdict or "not judged",
            "; ".join(map(_term, one.served)) or "never",
        )
        for one in versions
    ]
    return ["version", "made", "this question", "gate", "served"], rows


def refusal_lines(versions: Sequence[VersionTold]) -> Iterator[str]:
    """Why the gate refused those that learned from it."""
    for one in versions:
        if one.use in {"trained", "calibrated", "judged"} and one.refusals:
            yield f"{one.id} was refused: {'; '.join(one.refusals)}"


def looked_line(looked: Sequence[Looked]) -> str:
    """How far was looked."""
    return "looked through " + "; ".join(
        f"{one.topic}: {one.records:,} records"
        + ("" if one.since is None else f" since {time_of(one.since)} (--whole: all)")
        + ("" if one.whole else ", older ones are deleted")
        for one in looked
    )


def time_of(at: str | None) -> str:
    """A time for people, UTC."""
    return "-" if at is None else f"{at[:19].replace('T', ' ')}Z"


def short(text: str) -> str:
    """A text that fits a few lines."""
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 1]}…"


def _draw(one: EventTold) -> str:
    if one.draw is None:
        return ""
    if one.draw < one.propensity:
        return f", and its draw was {one.draw:.4f}"
    return f"; by this installation's key its draw is {one.draw:.4f}, so it was drawn elsewhere"


def _linked(linked: Sequence[str]) -> str:
    if not linked:
        return ""
    more = f" and {len(linked) - _IDS} more" if len(linked) > _IDS else ""
    return f"; linked with {', '.join(linked[:_IDS])}{more}"


def _times(count: float, what: str) -> str:
    return f"{count:,.0f} {what}" + ("" if round(count) == 1 else "s")


def _term(one: Term) -> str:
    return f"since {time_of(one.since)}" if one.until is None else f"{time_of(one.since)} to {time_of(one.until)}"


def _question(value: object) -> str:
    parts: Any = msgspec.to_builtins(value)
    only = list(parts.values())
    return only[0] if len(only) == 1 and isinstance(only[0], str) else _plain(parts)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
