"""The charts of the demo's report."""

from collections.abc import Callable
from typing import Final

from ops.demo.measures.measure import Estimate, Window
from ops.demo.page.picture import Mark, Picture, points
from ops.show.plot import Plot, ticks

_FEW_LINES: Final = 0.7  # an agreement below it asks for fewer lines
_FLIP: Final = 0.8  # of the width: beyond it words stand to the left of their line
CURVES: Final[tuple[tuple[str, str, Callable[[Window], Estimate | None]], ...]] = (
    ("student", "its top answer, over all traffic", lambda one: one.student_agreement),
    ("answered", "over what it answered itself: the promise", lambda one: one.answered_agreement),
    ("system", "over everything that was sent", lambda one: one.system_agreement),
)


def agreements(picture: Picture) -> str:
    """The three agreements with their bands, the promise, and what happened."""
    curves = {name: points(picture.curve, read) for name, _, read in CURVES}
    values = [one.value for curve in curves.values() for _, one in curve]
    low = max(0.0, int(10 * min([picture.target, *values]) - 0.5) / 10)
    plot = Plot(across=(0, picture.total), up=(low, 1.0), height=380)
    plot.grid([place / 20 for place in range(round(20 * low), 21, 2 if low < _FEW_LINES else 1)])
    plot.feet(ticks(0, picture.total, 6))
    names = []
    for name, curve in curves.items():
        if not curve:
            continue
        plot.area([(at, one.high) for at, one in curve], [(at, one.low) for at, one in curve], name)
        plot.line([(at, one.value) for at, one in curve], name)
        names.append((curve[-1][1].value, f"{name} {curve[-1][1].value:.1%}", name))
    plot.level(picture.target, f"promised {picture.target:.0%}")
    plot.ends(names)
    for row, mark in enumerate(mark for mark in picture.marks if _told(mark) is not None):
        _draw_mark(plot, mark, row)
    return plot.svg("agreement with the teacher over requests")


def escalations(picture: Picture) -> str:
    """The share of requests that the teacher answered, with the cycles' verdicts along the bottom."""
    plot = Plot(across=(0, picture.total), up=(0.0, 1.0), height=250)
    plot.grid([0, 0.25, 0.5, 0.75, 1])
    plot.feet(ticks(0, picture.total, 6))
    curve = [(float(one.last + 1), one.escalated_ratio) for one in picture.curve if one.escalated_ratio is not None]
    if curve:
        plot.area(curve, [(at, 0.0) for at, _ in curve], "escalated")
        plot.line(curve, "escalated")
        plot.ends([(curve[-1][1], f"escalated {curve[-1][1]:.1%}", "escalated")])
    for mark in picture.marks:
        if mark.kind in {"pass", "fail", "inconclusive", "held"}:
            plot.dot(mark.at, 0.0, mark.kind, size=8 if mark.planted else 5, told=f"{mark.kind}: {mark.text}")
    return plot.svg("share of requests escalated over requests")


def _draw_mark(plot: Plot, mark: Mark, row: int) -> None:
    """A vertical line through the chart with its words, where it has any."""
    told = _told(mark)
    if told is None:
        return
    words, colour = told
    plot.upright(mark.at, colour)
    flip = mark.at > _FLIP * plot.across[1]
    plot.text(
        mark.at,
        plot.height - 40 - 17 * row,
        words,
        anchor="end" if flip else "start",
        kind=f'dx="{-6 if flip else 6}" style="fill:var(--{colour})"',
    )


def _told(mark: Mark) -> tuple[str, str] | None:
    if mark.kind == "topic":
        return mark.text, "soft"
    if mark.planted:
        return f"planted challenger: {mark.kind}", mark.kind
    if mark.kind == "rollback":
        return "rollback, pinned", "ink"
    return None
