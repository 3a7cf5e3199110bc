"""A lane's past as one line through time: its moves and its cycles, the newest first."""

from dataclasses import dataclass

from ops.cycles.shown import length
from ops.cycles.waiting import verdict_line
from ops.show.plot import Plot, percent, ticks
from ops.show.values import time_of
from ops.status.past import Past, VersionShown


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """One thing that happened."""

    at_s: float  # Unix seconds
    kind: str  # of the move, or the verdict of the cycle
    what: str
    version: str | None
    who: str | None
    why: str


def timeline(past: Past) -> list[Happened]:
    """Moves and cycles together, the newest first."""
    moves = [
        Happened(
            at_s=move.time_s,
            kind=move.kind,
            what=f"move {move.number}: {move.kind}",
            version=move.version,
            who=move.who,
            why=move.why,
        )
        for move in past.moves
    ]
    cycles = [
        Happened(
            at_s=cycle.at_s + cycle.seconds,
            kind=cycle.verdict,
            what=f"{cycle.kind.replace('_', '-')} cycle of {length(cycle.seconds)}: {cycle.verdict}",
            version=cycle.version,
            who=None,
            why=cycle.why or verdict_line(cycle),
        )
        for cycle in past.cycles
    ]
    return sorted([*moves, *cycles], key=lambda one: one.at_s, reverse=True)


def agreements(versions: list[VersionShown]) -> str | None:
    """A chart of what each version's own answers agreed on when it was judged; None for fewer than two."""
    judged = [(number, one) for number, one in enumerate(versions, start=1) if one.student_agreement is not None]
    if len(judged) < 2:  # noqa: PLR2004 - one is no curve
        return None
    values = [one.student_agreement or 0.0 for _, one in judged]
    low = max(0.0, min(values) - 0.1)
    chart = Plot(
        "student agreement of each version when it was judged",
        across=(judged[0][0], judged[-1][0]),
        up=(low, 1.0),
        height=190,
        right=24,
    )
    chart.grid(ticks(low, 1.0, 4), percent)
    chart.feet([number for number, _ in judged], lambda number: f"{number:.0f}")
    chart.line([(number, one.student_agreement or 0.0) for number, one in judged], "student", width=1.6)
    for number, one in judged:
        told = f"{one.id}, {one.verdict}, {time_of(one.created_s or 0.0)}: {one.student_agreement:.1%}"
        chart.dot(number, one.student_agreement or 0.0, one.verdict or "soft", told=told)
    return chart.svg()
