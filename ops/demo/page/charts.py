"""The charts of the demo's report and of `run.png`."""

from collections.abc import Callable, Mapping
from typing import Final

from ops.demo.measures.measure import Estimate, Window
from ops.demo.page.picture import Mark, Picture, points
from ops.show.plot import Plot, ticks

_FEW_LINES: Final = 0.7  # an agreement below it asks for fewer lines
_KEY: Final = 0.3  # of the height: where the verdicts that were given are named
_VERDICTS: Final = ("pass", "fail", "inconclusive", "held")
CURVES: Final[tuple[tuple[str, str, Callable[[Window], Estimate | None]], ...]] = (
    ("student", "its top answer, over all traffic", lambda one: one.student_agreement),
    ("answered", "over what it answered itself: the promise", lambda one: one.answered_agreement),
    ("system", "over everything that was sent", lambda one: one.system_agreement),
)


def charts(pictures: Mapping[str, Picture]) -> list[Plot]:
    """What `run.png` shows: both charts of each lane, the lanes named where there are several."""
    found = []
    for name, picture in pictures.items():
        drawn = [agreements(picture), escalations(picture)]
        if len(pictures) > 1:
            drawn[0].label = f"{name}: {drawn[0].label}"
        found += drawn
    return found


def agreements(picture: Picture) -> Plot:
    """The three agreements with their bands, the promise, and what happened."""
    curves = {name: points(picture.curve, read) for name, _, read in CURVES}
    values = [one.value for curve in curves.values() for _, one in curve]
    low = max(0.0, int(10 * min([picture.target, *values]) - 0.5) / 10)
    label = "Agreement with the teacher over requests, last 250 of them, 95 % intervals"
    plot = Plot(label, across=(0, picture.total), up=(low, 1.0), height=380)
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
    return plot


def escalations(picture: Picture) -> Plot:
    """The share of requests that the teacher answered, with the cycles' verdicts along the bottom."""
    label = "Share of requests that were escalated, swaps as lines and the cycles' verdicts below"
    plot = Plot(label, across=(0, picture.total), up=(0.0, 1.0), height=250)
    plot.grid([0, 0.25, 0.5, 0.75, 1])
    plot.feet(ticks(0, picture.total, 6))
    curve = [(float(one.last + 1), one.escalated_ratio) for one in picture.curve if one.escalated_ratio is not None]
    names = []
    if curve:
        plot.area(curve, [(at, 0.0) for at, _ in curve], "escalated")
        plot.line(curve, "escalated")
        names.append((curve[-1][1], f"escalated {curve[-1][1]:.1%}", "escalated"))
    for mark in picture.marks:
        if mark.kind in {"swap", "rollback"}:
            plot.upright(mark.at, "soft" if mark.kind == "swap" else "ink")
    seen = {mark.kind for mark in picture.marks}
    for mark in picture.marks:
        if mark.kind in _VERDICTS:
            plot.dot(mark.at, 0.0, mark.kind, size=8 if mark.planted else 5, told=f"{mark.kind}: {mark.text}")
    names += [(_KEY - place / 1000, f"● {kind}", kind) for place, kind in enumerate(_VERDICTS) if kind in seen]
    plot.ends(names)
    return plot


def _draw_mark(plot: Plot, mark: Mark, row: int) -> None:
    """A vertical line through the chart with its words, where it has any."""
    told = _told(mark)
    if told is not None:
        words, colour = told
        plot.upright(mark.at, colour, words, row=row)


def _told(mark: Mark) -> tuple[str, str] | None:
    if mark.kind == "topic":
        return mark.text, "soft"
    if mark.planted:
        return f"planted challenger: {mark.kind}", mark.kind
    if mark.kind == "rollback":
        return "rollback, pinned", "ink"
    return None
