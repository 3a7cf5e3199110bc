"""What the live view, the figure and the report all draw: curves over requests, and what happened along them. Pure."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ops.demo.measures.measure import Estimate, Exchange, Marked, Window, estimate, requests_of, rolling
from ops.demo.measures.summary import Rollback

WIDTH = 250  # requests that a point of a curve looks back over
STEP = 50

ENOUGH = 20  # answers that a point of an agreement's curve rests on, at least

MarkKind = Literal["pass", "fail", "inconclusive", "held", "swap", "rollback", "topic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened, at the number of requests sent until then."""

    at: int
    kind: MarkKind
    text: str
    planted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One run, finished or not."""

    total: int  # requests that will be sent
    target: float
    curve: tuple[Window, ...]
    marks: tuple[Mark, ...]
    requests: Mapping[str, int]
    answered: Estimate | None  # over all that the student answered itself
    audits: Estimate | None  # the same as the gateway's own audits saw it


def draw(
    *,
    total: int,
    target: float,
    outcomes: Sequence[Exchange],
    judged: Sequence[Marked | None],
    cycles: Sequence[Mapping[str, Any]],
    swaps: Sequence[Mapping[str, Any]],
    planted: str | None,
    rollback: Rollback | None,
    late: str | None,
) -> Picture:
    """The picture of what is known so far; `outcomes` and `judged` are in the order of sending.

    `late` is what generated traffic brings half way, for a person; None where nothing does.
    """
    sent_s = sorted(one.at_s for one in outcomes)
    marks = [_cycle_mark(cycle, bisect_right(sent_s, cycle["at_s"] + cycle["seconds"]), planted) for cycle in cycles]
    marks += [_swap_mark(swap, bisect_right(sent_s, swap["at_s"]), rollback) for swap in swaps]
    if late is not None and 2 * len(outcomes) >= total:
        marks.append(Mark(at=total // 2, kind="topic", text=late))
    counted = [one for one in judged if one is not None and not one.trained]
    return Picture(
        total=total,
        target=target,
        curve=tuple(rolling(judged, width=WIDTH, step=STEP)),
        marks=tuple(sorted(marks, key=lambda mark: mark.at)),
        requests=requests_of(outcomes),
        answered=estimate([one.answered for one in counted]),
        audits=estimate([one.audit for one in counted]),
    )


def points(curve: Sequence[Window], read: Callable[[Window], Estimate | None]) -> list[tuple[int, Estimate]]:
    """An agreement along the requests: (requests sent, estimate), where enough answers speak for it."""
    return [(one.last + 1, found) for one in curve if (found := read(one)) is not None and found.n >= ENOUGH]


def headline(pictures: Mapping[str, Picture]) -> str:
    """What happened, in one sentence; of several lanes, in a few words each."""
    if len(pictures) == 1:
        return summed_up(next(iter(pictures.values())))
    return "; ".join(f"{name.rpartition('/')[2]}: {_briefly(picture)}" for name, picture in pictures.items())


def summed_up(picture: Picture) -> str:
    """What happened in one lane, in one sentence without its full stop."""
    first, last = _ends(picture)
    own = "the student gave no answers of its own"
    if picture.answered is not None:
        own = f"of the student's own answers {picture.answered.value:.1%} agree, {picture.target:.0%} promised"
    if first is None or last is None:
        return f"{picture.requests['sent']:,} requests; {own}"
    return f"Escalations fell from {first:.0%} to {last:.0%} of requests; {own}"


def _briefly(picture: Picture) -> str:
    first, last = _ends(picture)
    escalated = "" if first is None or last is None else f"escalations {first:.0%} to {last:.0%}"
    own = "" if picture.answered is None else f"{picture.answered.value:.1%} of own answers agree"
    return ", ".join(part for part in (escalated, own) if part) or f"{picture.requests['sent']:,} requests"


def _ends(picture: Picture) -> tuple[float | None, float | None]:
    """The share that was escalated at the beginning and at the end."""
    return picture.curve[0].escalated_ratio, picture.curve[-1].escalated_ratio


def duration(seconds: float) -> str:
    """A short time for a person."""
    return f"{1e6 * seconds:.1f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.1f} ms"  # noqa: PLR2004 - a millisecond


def _cycle_mark(cycle: Mapping[str, Any], at: int, planted: str | None) -> Mark:
    sabotage = planted is not None and cycle.get("candidate") == planted
    told = "; ".join(cycle["refusals"]) or (f"version {cycle['version'][:8]}" if cycle["version"] else "")
    return Mark(at=at, kind=cycle["verdict"], text=told, planted=sabotage)


def _swap_mark(swap: Mapping[str, Any], at: int, rollback: Rollback | None) -> Mark:
    back = rollback is not None and swap["to"] == rollback.after and swap["from"] == rollback.before
    took = "failed" if swap["failed"] else duration(swap["publish_s"])
    before = (swap["from"] or "nobody")[:8]
    return Mark(at=at, kind="rollback" if back else "swap", text=f"{before} → {swap['to'][:8]}, {took}")
