"""Charts as inline SVG that take their colours from the page, so that they fit the light and the dark."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Final

WIDTH: Final = 1080
NARROW: Final = 460  # for a telephone: a wide chart made small has words that nobody can read
LEFT: Final = 48
TOP: Final = 14
BOTTOM: Final = 30
_RIGHT: Final = 128
_CHARACTER: Final = 8.0  # the width of one, and a little
_LINE_GAP: Final = 17.0  # between two names, one above the other


def percent(value: float) -> str:
    """A share as an axis shows it."""
    return f"{value:.0%}"


def count(value: float) -> str:
    """A number of things as an axis shows it."""
    return f"{value:,.0f}"


def ticks(low: float, high: float, parts: int) -> list[float]:
    """Round numbers from `low` to `high`, about `parts` steps of 1, 2, 2.5 or 5 times a power of ten."""
    span = (high - low) / parts
    power = 10.0 ** math.floor(math.log10(span))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= span * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [step * (first + place) for place in range(int((high - first * step) / step + 1e-9) + 1)]


class Plot:
    """A chart's frame."""

    def __init__(
        self, *, across: tuple[float, float], up: tuple[float, float], height: int, right: int = _RIGHT
    ) -> None:
        """An empty chart.

        Args:
            across: first and last value of the horizontal axis.
            up: lowest and highest value of the vertical one.
            height: pixels.
            right: pixels left free beside the frame, for names.
        """
        self.across, self.up, self.height = across, up, height
        self.right = right
        self.width = WIDTH
        self.parts: list[Callable[[], str]] = []

    @property
    def right_edge(self) -> float:
        """Where the frame ends."""
        return self.width - self.right

    def x(self, at: float) -> float:
        """Where a value lies across."""
        first, last = self.across
        return LEFT + (self.right_edge - LEFT) * (at - first) / (last - first)

    def y(self, value: float) -> float:
        """Where a value lies up the page; beyond the frame, at its edge."""
        low, high = self.up
        return TOP + (self.height - TOP - BOTTOM) * (high - min(max(value, low), high)) / (high - low)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """A path's commands through points of (across, up)."""
        return "M" + "L".join(f"{self.x(at):.1f} {self.y(value):.1f}" for at, value in points)

    def grid(self, values: Sequence[float], show: Callable[[float], str] = percent) -> None:
        """A line and a number at each value of the vertical axis."""
        for value in values:
            self.parts.append(partial(self._grid_line, self.y(value), show(value)))

    def _grid_line(self, y: float, told: str) -> str:
        return (
            f'<line class="grid" x1="{LEFT}" x2="{self.right_edge}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="faint" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(told)}</text>'
        )

    def feet(self, values: Sequence[float], show: Callable[[float], str] = count) -> None:
        """Numbers below the frame: as many as there is room for."""
        told = [show(value) for value in values]
        for place, value in enumerate(values):
            self.parts.append(partial(self._foot, place, value, told))

    def _foot(self, place: int, value: float, told: Sequence[str]) -> str:
        room = (self.right_edge - LEFT) / max(1, len(told) - 1)
        if place % math.ceil(_CHARACTER * max(map(len, told)) / room):
            return ""
        at = f'x="{self.x(value):.1f}" y="{self.height - 8:.1f}"'
        return f'<text class="faint" {at} text-anchor="middle">{escape(told[place])}</text>'

    def text(self, at: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> None:
        """Words at a value across and a pixel down the page; `kind` is the element's class or style."""
        self.parts.append(
            lambda: f'<text {kind} x="{self.x(at):.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, width: float = 2.4, dashes: str = "") -> None:
        """A curve."""
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(
            lambda: (
                f'<path d="{self.path(points)}" fill="none" stroke="var(--{colour})" stroke-width="{width}"'
                f' stroke-linejoin="round" stroke-linecap="round"{dashed}/>'
            )
        )

    def area(self, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], colour: str) -> None:
        """A band between two curves."""
        outline = [*upper, *reversed(lower)]
        self.parts.append(lambda: f'<path d="{self.path(outline)}Z" fill="var(--{colour})" opacity=".14"/>')

    def dot(self, at: float, value: float, colour: str, *, size: float = 5, told: str = "") -> None:
        """A point; `told` is shown when one points at it."""
        title = f"<title>{escape(told)}</title>" if told else ""
        self.parts.append(
            lambda: (
                f'<circle cx="{self.x(at):.1f}" cy="{self.y(value):.1f}" r="{size}" fill="var(--{colour})"'
                f' stroke="var(--card)" stroke-width="2">{title}</circle>'
            )
        )

    def upright(self, at: float, colour: str, *, dashes: str = "2 4") -> None:
        """A vertical line through the frame."""
        self.parts.append(
            lambda: (
                f'<line x1="{self.x(at):.1f}" x2="{self.x(at):.1f}" y1="{TOP}" y2="{self.height - BOTTOM}"'
                f' stroke="var(--{colour})" stroke-dasharray="{dashes}" stroke-width="1.4"/>'
            )
        )

    def level(self, value: float, words: str = "", colour: str = "ink") -> None:
        """A dashed line across the frame, with its name where it has one."""
        y = self.y(value)
        self.parts.append(
            lambda: (
                f'<line x1="{LEFT}" x2="{self.right_edge}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--{colour})"'
                ' stroke-width="1.3" stroke-dasharray="7 5"/>'
            )
        )
        if words:
            self.text(self.across[0], y - 6, words, kind=f'dx="6" style="fill:var(--{colour})"')

    def ends(self, names: Sequence[tuple[float, str, str]]) -> None:
        """Names (value, words, colour) beside the curves' right ends, pushed apart where they would overlap."""
        at = -20.0
        for value, words, colour in sorted(names, reverse=True):
            at = max(self.y(value) + 4, at + _LINE_GAP)
            self.parts.append(partial(self._end, at, words, colour))

    def _end(self, y: float, words: str, colour: str) -> str:
        return (
            f'<text x="{self.right_edge + 9}" y="{y:.1f}" style="fill:var(--{colour});font-weight:600">'
            f"{escape(words)}</text>"
        )

    def axis(self, value: float) -> None:
        """A quiet line across the whole frame."""
        self.parts.append(
            lambda: (
                f'<line class="axis" x1="{LEFT}" x2="{self.right_edge}" y1="{self.y(value):.1f}"'
                f' y2="{self.y(value):.1f}"/>'
            )
        )

    def svg(self, label: str) -> str:
        """The chart, named for those who cannot see it: drawn twice, and the page shows the one that fits it."""
        return self._drawn(WIDTH, "wide", label) + self._drawn(NARROW, "narrow", label)

    def _drawn(self, width: int, kind: str, label: str) -> str:
        self.width = width
        inside = "".join(part() for part in self.parts)
        frame = f'viewBox="0 0 {width} {self.height}" role="img" aria-label="{escape(label)}"'
        return f'<svg class="{kind}" {frame}>{inside}</svg>'
