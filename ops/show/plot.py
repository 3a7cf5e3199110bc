"""Charts, described once: a page shows them as inline SVG in its own colours, a figure as a picture."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ops.show.sheet import Anchor, Sheet, SvgSheet

WIDTH: Final = 1080
NARROW: Final = 460  # for a telephone: a wide chart made small has words that nobody can read
LEFT: Final = 48
TOP: Final = 14
BOTTOM: Final = 30
_RIGHT: Final = 128
_CHARACTER: Final = 8.0  # the width of one, and a little
_LINE_GAP: Final = 17.0  # between two names, one above the other
_FLIP: Final = 0.6  # of the width: beyond it words stand to the left of their line, inside the frame


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
    """A chart in its frame."""

    def __init__(
        self,
        label: str,
        *,
        across: tuple[float, float],
        up: tuple[float, float],
        height: int,
        right: int = _RIGHT,
    ) -> None:
        """An empty chart.

        Args:
            label: what it shows, in a few words.
            across: first and last value of the horizontal axis.
            up: lowest and highest value of the vertical one.
            height: pixels.
            right: pixels left free beside the frame, for names.
        """
        self.label = label
        self.across, self.up, self.height = across, up, height
        self.right = right
        self.width = WIDTH
        self.parts: list[Callable[[Sheet], None]] = []

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

    def grid(self, values: Sequence[float], show: Callable[[float], str] = percent) -> None:
        """A line and a number at each value of the vertical axis."""
        for value in values:
            self.axis(value, "grid")
            self.parts.append(partial(self._number, value, show(value)))

    def _number(self, value: float, told: str, sheet: Sheet) -> None:
        sheet.text((LEFT - 8, self.y(value) + 4), told, "soft", anchor="end")

    def feet(self, values: Sequence[float], show: Callable[[float], str] = count) -> None:
        """Numbers below the frame: as many as there is room for."""
        told = [show(value) for value in values]
        for place, value in enumerate(values):
            self.parts.append(partial(self._foot, place, value, told))

    def _foot(self, place: int, value: float, told: Sequence[str], sheet: Sheet) -> None:
        room = (self.right_edge - LEFT) / max(1, len(told) - 1)
        if place % math.ceil(_CHARACTER * max(map(len, told)) / room) == 0:
            sheet.text((self.x(value), self.height - 8), told[place], "soft", anchor="middle")

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, *, width: float = 2.4, dashes: Sequence[float] = ()
    ) -> None:
        """A curve."""
        self.parts.append(
            lambda sheet: sheet.curve(
                [(self.x(at), self.y(value)) for at, value in points], colour, width=width, dashes=dashes
            )
        )

    def area(self, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], colour: str) -> None:
        """A band between two curves."""
        outline = [*upper, *reversed(lower)]
        self.parts.append(lambda sheet: sheet.band([(self.x(at), self.y(value)) for at, value in outline], colour))

    def dot(self, at: float, value: float, colour: str, *, size: float = 5, told: str = "") -> None:
        """A point; `told` is shown when one points at it."""
        self.parts.append(lambda sheet: sheet.dot((self.x(at), self.y(value)), colour, size=size, told=told))

    def upright(self, at: float, colour: str, words: str = "", *, row: int = 0, strong: bool = False) -> None:
        """A vertical line through the frame with words at its foot, so many rows above the lowest."""

        def draw(sheet: Sheet) -> None:
            x = self.x(at)
            sheet.curve([(x, TOP), (x, self.height - BOTTOM)], colour, width=1.4, dashes=(2, 4))
            if words:
                flip = at - self.across[0] > _FLIP * (self.across[1] - self.across[0])
                anchor: Anchor = "end" if flip else "start"
                spot = (x + (-8 if flip else 8), self.height - 40 - _LINE_GAP * row)
                sheet.text(spot, words, colour, anchor=anchor, strong=strong)

        self.parts.append(draw)

    def level(self, value: float, words: str = "", colour: str = "ink") -> None:
        """A dashed line across the frame, with its name where it has one."""

        def draw(sheet: Sheet) -> None:
            y = self.y(value)
            sheet.curve([(LEFT, y), (self.right_edge, y)], colour, width=1.3, dashes=(7, 5))
            if words:
                sheet.text((LEFT + 6, y - 6), words, colour)

        self.parts.append(draw)

    def ends(self, names: Sequence[tuple[float, str, str]]) -> None:
        """Names (value, words, colour) beside the curves' right ends, pushed apart where they would overlap."""
        at = -20.0
        for value, words, colour in sorted(names, reverse=True):
            at = max(self.y(value) + 4, at + _LINE_GAP)
            self.parts.append(partial(self._end, at, words, colour))

    def _end(self, y: float, words: str, colour: str, sheet: Sheet) -> None:
        sheet.text((self.right_edge + 9, y), words, colour, strong=True)

    def axis(self, value: float, colour: str = "line") -> None:
        """A quiet line across the whole frame."""

        def draw(sheet: Sheet) -> None:
            y = self.y(value)
            sheet.curve([(LEFT, y), (self.right_edge, y)], colour, width=1)

        self.parts.append(draw)

    def draw(self, sheet: Sheet) -> None:
        """Put all of it on a sheet, as wide as that is."""
        self.width = sheet.width
        for part in self.parts:
            part(sheet)

    def svg(self) -> str:
        """The chart for a page: drawn twice, and the page shows the one that fits it."""
        drawn = []
        for width, kind in ((WIDTH, "wide"), (NARROW, "narrow")):
            sheet = SvgSheet(width, self.height)
            self.draw(sheet)
            drawn.append(sheet.svg(kind, self.label))
        return "".join(drawn)
