"""The report's charts: inline SVG that takes its colours from the page, so that it fits the light and the dark."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from ops.demo.measure import Estimate, Window
from ops.show.picture import Mark, Picture, points

_WIDTH: Final = 1080
_LEFT: Final = 48
_RIGHT: Final = 128
CURVES: Final[tuple[tuple[str, str, Callable[[Window], Estimate | None]], ...]] = (
    ("student", "its top answer, over all traffic", lambda one: one.student_agreement),
    ("answered", "over what it answered itself: the promise", lambda one: one.answered_agreement),
    ("system", "over everything that was sent", lambda one: one.system_agreement),
)


class _Plot:
    """A chart's frame: requests across, shares up."""

    def __init__(self, total: int, height: int, low: float, high: float) -> None:
        """An empty chart of shares from `low` to `high`."""
        self.total, self.height, self.low, self.high = total, height, low, high
        self.parts: list[str] = []

    def x(self, at: float) -> float:
        """Where a number of requests lies."""
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / self.total

    def y(self, value: float) -> float:
        """Where a share lies; beyond the frame, at its edge."""
        return 14 + (self.height - 44) * (self.high - min(max(value, self.low), self.high)) / (self.high - self.low)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """A path's commands through points of (requests, share)."""
        return "M" + "L".join(f"{self.x(at):.1f} {self.y(value):.1f}" for at, value in points)

    def grid(self, step: float) -> None:
        """Lines every `step`, and the axes' numbers."""
        value = self.high
        while value >= self.low - 1e-9:
            y = self.y(value)
            self.parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.parts.append(
                f'<text class="faint" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.0%}</text>'
            )
            value -= step
        for part in range(7):
            at = self.total * part / 6
            self.parts.append(
                f'<text class="faint" x="{self.x(at):.1f}" y="{self.height - 8}" text-anchor="middle">{at:,.0f}</text>'
            )

    def line(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """A curve."""
        self.parts.append(
            f'<path d="{self.path(points)}" fill="none" stroke="var(--{colour})" stroke-width="2.4"'
            ' stroke-linejoin="round" stroke-linecap="round"/>'
        )

    def area(self, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], colour: str) -> None:
        """A band between two curves."""
        outline = self.path([*upper, *reversed(lower)])
        self.parts.append(f'<path d="{outline}Z" fill="var(--{colour})" opacity=".14"/>')

    def ends(self, names: Sequence[tuple[float, str, str]]) -> None:
        """Names at the curves' right ends, pushed apart where they would overlap."""
        at = -20.0
        for value, text, colour in sorted(names, reverse=True):
            at = max(self.y(value) + 4, at + 17)
            self.parts.append(
                f'<text x="{_WIDTH - _RIGHT + 9}" y="{at:.1f}" style="fill:var(--{colour});font-weight:600">'
                f"{escape(text)}</text>"
            )

    def mark(self, mark: Mark, row: int) -> None:
        """A vertical line through the chart, with a word where there is one."""
        told = _told(mark)
        if told is None:
            return
        text, colour = told
        x, flip = self.x(mark.at), mark.at > 0.8 * self.total
        self.parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="14" y2="{self.height - 30}" stroke="var(--{colour})"'
            ' stroke-dasharray="2 4" stroke-width="1.4"/>'
            f'<text x="{x - 6 if flip else x + 6:.1f}" y="{self.height - 40 - 17 * row}"'
            f' text-anchor="{"end" if flip else "start"}" style="fill:var(--{colour})">{escape(text)}</text>'
        )

    def svg(self, label: str) -> str:
        """The chart, named for those who cannot see it."""
        inside = "".join(self.parts)
        return f'<svg viewBox="0 0 {_WIDTH} {self.height}" role="img" aria-label="{escape(label)}">{inside}</svg>'


def agreements(picture: Picture) -> str:
    """The three agreements with their bands, the promise, and what happened."""
    curves = {name: points(picture.curve, read) for name, _, read in CURVES}
    values = [one.value for curve in curves.values() for _, one in curve]
    low = max(0.0, int(10 * min([picture.target, *values]) - 0.5) / 10)
    plot = _Plot(picture.total, 380, low, 1.0)
    plot.grid(0.1 if low < 0.7 else 0.05)  # noqa: PLR2004 - so that there are five lines or so
    names = []
    for name, curve in curves.items():
        if not curve:
            continue
        plot.area([(at, one.high) for at, one in curve], [(at, one.low) for at, one in curve], name)
        plot.line([(at, one.value) for at, one in curve], name)
        names.append((curve[-1][1].value, f"{name} {curve[-1][1].value:.1%}", name))
    y = plot.y(picture.target)
    plot.parts.append(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--ink)" stroke-width="1.3"'
        f' stroke-dasharray="7 5"/><text x="{_LEFT + 6}" y="{y - 6:.1f}">promised {picture.target:.0%}</text>'
    )
    plot.ends(names)
    for row, mark in enumerate(mark for mark in picture.marks if _told(mark) is not None):
        plot.mark(mark, row)
    return plot.svg("agreement with the teacher over requests")


def escalations(picture: Picture) -> str:
    """The share of requests that the teacher answered, with the cycles' verdicts along the bottom."""
    plot = _Plot(picture.total, 250, 0.0, 1.0)
    plot.grid(0.25)
    curve = [(float(one.last + 1), one.escalated_ratio) for one in picture.curve if one.escalated_ratio is not None]
    if curve:
        plot.area(curve, [(at, 0.0) for at, _ in curve], "escalated")
        plot.line(curve, "escalated")
        plot.ends([(curve[-1][1], f"escalated {curve[-1][1]:.1%}", "escalated")])
    for mark in picture.marks:
        if mark.kind in {"pass", "fail", "inconclusive", "held"}:
            x, size = plot.x(mark.at), 8 if mark.planted else 5
            plot.parts.append(
                f'<circle cx="{x:.1f}" cy="{plot.y(0):.1f}" r="{size}" fill="var(--{mark.kind})" stroke="var(--card)"'
                f' stroke-width="2"><title>{escape(f"{mark.kind}: {mark.text}")}</title></circle>'
            )
    return plot.svg("share of requests escalated over requests")


def _told(mark: Mark) -> tuple[str, str] | None:
    if mark.kind == "topic":
        return mark.text, "soft"
    if mark.planted:
        return f"planted challenger: {mark.kind}", mark.kind
    if mark.kind == "rollback":
        return "rollback, pinned", "ink"
    return None
