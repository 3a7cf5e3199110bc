"""What the demo measures, from its client's answers, the log's events and the versions' training sets. Pure.

Three agreements that are never confused: the student's top answer against the teacher's over all traffic, the answers
that it gave itself (the promise), and everything that was sent.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from store.event import Reason
from trainer.judge.intervals import wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request as the client saw it."""

    index: int
    at_s: float  # sent, Unix seconds
    item_id: str
    agreed: bool | None  # what came back with the teacher's recorded answer; None: the request failed
    served_by: Literal["student", "teacher"] | None
    version: str | None  # the version that the request pinned
    event_id: str | None
    withheld: bool = False
    degraded: bool = False
    answer: str | None = None  # for a person
    error: str | None = None  # for a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What the log says of one escalation."""

    agreed: bool | None  # the student's answer, from before the teacher's was known, with it; None: it had none
    reason: Reason
    said: str | None  # the student's answer, for a person; None: it had none

    @property
    def audit(self) -> bool:
        """Whether the student had answered."""
        return self.reason == "audit"


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A share with Wilson's 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """One request against the teacher's recorded answer; None: the question does not arise."""

    at_s: float
    trained: bool  # the serving version was trained on this very question
    escalated: bool
    student: bool | None
    answered: bool | None  # over what the student answered on its own authority
    system: bool
    audit: bool | None  # as the gateway's own audits saw it


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Some requests in a row."""

    first: int  # requests, counted from 0
    last: int
    at_s: float  # when the last one was sent, Unix seconds
    n: int  # requests counted
    trained: int  # left out: the serving version was trained on the question
    escalated_ratio: float | None
    student_agreement: Estimate | None
    answered_agreement: Estimate | None
    system_agreement: Estimate | None
    audit_estimate: Estimate | None


def judge(outcome: Exchange, logged: Logged | None, trained: Collection[str]) -> Marked | None:
    """Compare one request with the record; None for one that failed.

    Args:
        outcome: the client's side.
        logged: the event, where the teacher was asked.
        trained: item ids that the serving version was trained on.
    """
    if outcome.agreed is None:
        return None
    own = outcome.served_by == "student"
    trusted = own and not outcome.withheld and not outcome.degraded
    return Marked(
        at_s=outcome.at_s,
        trained=outcome.item_id in trained,
        escalated=not own,
        student=outcome.agreed if own else logged.agreed if logged is not None else None,
        answered=outcome.agreed if trusted else None,
        system=outcome.agreed,
        audit=logged.agreed if logged is not None and logged.audit else None,
    )


def window(judged: Sequence[Marked | None], first: int) -> Window | None:
    """Sum up requests in a row, the first of which is number `first`; None where none was answered."""
    answered = [one for one in judged if one is not None]
    if not answered:
        return None
    counted = [one for one in answered if not one.trained]
    return Window(
        first=first,
        last=first + len(judged) - 1,
        at_s=max(one.at_s for one in answered),
        n=len(counted),
        trained=len(answered) - len(counted),
        escalated_ratio=sum(one.escalated for one in counted) / len(counted) if counted else None,
        student_agreement=estimate([one.student for one in counted]),
        answered_agreement=estimate([one.answered for one in counted]),
        system_agreement=estimate([one.system for one in counted]) if _served(counted) else None,
        audit_estimate=estimate([one.audit for one in counted]),
    )


def _served(counted: Sequence[Marked]) -> bool:
    """Whether there was a version: before it, the teacher agrees with itself, which says nothing."""
    return any(one.student is not None for one in counted)


def estimate(agreed: Sequence[bool | None]) -> Estimate | None:
    """The share of agreement among those that are not None; None where there are none."""
    known = [one for one in agreed if one is not None]
    if not known:
        return None
    low, high = wilson(sum(known), len(known))
    return Estimate(value=sum(known) / len(known), low=low, high=high, n=len(known))


def windows(judged: Sequence[Marked | None], count: int) -> list[Window]:
    """`count` windows of equal length that cover every request."""
    edges = [round(len(judged) * step / count) for step in range(count + 1)]
    found = [window(judged[a:b], a) for a, b in itertools.pairwise(edges) if b > a]
    return [one for one in found if one is not None]


def rolling(judged: Sequence[Marked | None], *, width: int, step: int) -> list[Window]:
    """Windows of `width` requests (fewer at the beginning) that end at every `step`-th request."""
    ends = range(step, len(judged) + 1, step)
    found = [window(judged[max(0, end - width) : end], max(0, end - width)) for end in ends]
    return [one for one in found if one is not None]


def judge_all(
    outcomes: Sequence[Exchange | None], log: Mapping[str, Logged], trained: Mapping[str, Collection[str]]
) -> list[Marked | None]:
    """`judge` for every request that was sent, in the order of sending."""
    return [
        None
        if outcome is None
        else judge(outcome, log.get(outcome.event_id or ""), trained.get(outcome.version or "", ()))
        for outcome in outcomes
    ]


def requests_of(outcomes: Sequence[Exchange]) -> dict[str, int]:
    """Who answered: sent = student + teacher + failed; withheld are among the student's."""
    return {
        "sent": len(outcomes),
        "student": sum(one.served_by == "student" for one in outcomes),
        "teacher": sum(one.served_by == "teacher" for one in outcomes),
        "withheld": sum(one.withheld for one in outcomes),
        "failed": sum(one.agreed is None for one in outcomes),
    }


def plain(value: Any) -> Any:
    """A record as JSON values, numbers rounded for people."""
    return _rounded(msgspec.to_builtins(value))


_TINY = 1e-3


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 4) if abs(value) >= _TINY else float(f"{value:.3g}")
        case dict():
            return {name: _rounded(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_rounded(inner) for inner in value]
        case _:
            return value
