"""What was escalated and why, and a few answers of teacher and student side by side. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from ops.demo.measures.measure import Estimate, Exchange, Logged, estimate
from ops.demo.tasks.play import DemoTask, Request
from store.event import Reason

_OF_A_KIND: Final = 2  # examples at most
_LONGEST: Final = 240  # characters of a text


class Escalated(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one reason, and how often the student would have been right in them."""

    reason: Reason
    events: int
    student_agreement: Estimate | None  # None: there was no student


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One question with both answers."""

    question: str
    teacher: str
    student: str
    reason: Reason | None  # why the teacher was asked; None: it was not
    agreed: bool


def escalated(log: Iterable[Logged]) -> list[Escalated]:
    """The log's events by their reason, the most frequent first."""
    found: dict[Reason, list[bool | None]] = {}
    for one in log:
        found.setdefault(one.reason, []).append(one.agreed)
    rows = [
        Escalated(reason=reason, events=len(agreed), student_agreement=estimate(agreed))
        for reason, agreed in found.items()
    ]
    return sorted(rows, key=lambda row: -row.events)


def examples(
    requests: Sequence[Request], outcomes: Sequence[Exchange], log: Mapping[str, Logged], play: DemoTask
) -> list[Example]:
    """The latest answers of each kind: what the student said, or would have said, beside what the teacher says.

    A kind is why the teacher was asked, and whether the student agrees with it; a question is shown once.

    Args:
        requests: what was sent.
        outcomes: what came back, in whatever order.
        log: what the log says of an event, by its id.
        play: words for people.
    """
    found: dict[tuple[Reason | None, bool], dict[str, Example]] = {}
    for one in sorted(outcomes, key=lambda one: -one.index):
        example = _example(requests[one.index], one, log.get(one.event_id or ""), play)
        if example is not None:
            kind = found.setdefault((example.reason, example.agreed), {})
            if len(kind) < _OF_A_KIND:
                kind.setdefault(example.question, example)
    return [one for kind in sorted(found, key=_order) for one in found[kind].values()]


def _order(kind: tuple[Reason | None, bool]) -> tuple[str, bool]:
    reason, agreed = kind
    return reason or "", not agreed


def _example(request: Request, outcome: Exchange, logged: Logged | None, play: DemoTask) -> Example | None:
    """None where the student said nothing, or the request failed."""
    if outcome.agreed is None:
        return None
    if outcome.served_by == "student" and outcome.answer is not None:
        student, agreed = outcome.answer, outcome.agreed
    elif logged is not None and logged.said is not None and logged.agreed is not None:
        student, agreed = logged.said, logged.agreed
    else:
        return None
    return Example(
        question=_short(play.question(request.value)),
        teacher=_short(play.taught(request)),
        student=_short(student),
        reason=logged.reason if logged is not None else None,
        agreed=agreed,
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
