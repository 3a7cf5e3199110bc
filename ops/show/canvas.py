"""Charts as a picture: one below the other on white paper, each under what it shows."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ops.show.plot import WIDTH, Plot
from ops.show.sheet import LIGHT, VEIL, Anchor, Spot

_INCH: Final = 100.0  # pixels of a chart
_POINT: Final = 72.0 / _INCH  # points of a pixel: what matplotlib measures lines and letters in
_DPI: Final = 150
_EDGE: Final = 34  # pixels around everything
_TITLE: Final = 19.0  # pixels, a letter's height
_LABEL: Final = 13.5
_NUMBERS: Final = 12.0
_ALIGN: Final[dict[Anchor, Any]] = {"start": "left", "middle": "center", "end": "right"}
_STYLE: Final[Any] = {  # matplotlib names every key in its type
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # a dollar is a dollar
    "lines.scale_dashes": False,
}


class Canvas:
    """A part of a picture; satisfies `ops.show.sheet.Sheet`."""

    width: Final = WIDTH

    def __init__(self, axes: Axes, top: float) -> None:
        """Draw on axes whose units are pixels, so far below their top."""
        self._axes, self._top = axes, top

    def curve(self, spots: Sequence[Spot], colour: str, *, width: float, dashes: Sequence[float] = ()) -> None:
        """See `Sheet`."""
        x, y = self._placed(spots)
        style: Any = (0, tuple(one * _POINT for one in dashes)) if dashes else "-"
        self._axes.plot(x, y, color=LIGHT[colour], lw=width * _POINT, ls=style, solid_capstyle="round")

    def band(self, spots: Sequence[Spot], colour: str) -> None:
        """See `Sheet`."""
        x, y = self._placed(spots)
        self._axes.fill(x, y, color=LIGHT[colour], alpha=VEIL, lw=0)

    def dot(self, spot: Spot, colour: str, *, size: float, told: str = "") -> None:  # noqa: ARG002 - nobody can point at it
        """See `Sheet`."""
        x, y = self._placed([spot])
        edge = 2 * _POINT
        size = 2 * size * _POINT
        self._axes.plot(x, y, marker="o", ms=size, color=LIGHT[colour], mec=LIGHT["card"], mew=edge)

    def text(
        self, spot: Spot, words: str, colour: str = "ink", *, anchor: Anchor = "start", strong: bool = False
    ) -> None:
        """See `Sheet`."""
        self.written(spot, words, colour, size=_NUMBERS, anchor=anchor, strong=strong)

    def written(
        self, spot: Spot, words: str, colour: str, *, size: float, anchor: Anchor = "start", strong: bool = False
    ) -> None:
        """Words of so many pixels."""
        weight = "bold" if strong else "normal"
        x, y = spot[0] + _EDGE, spot[1] + self._top
        self._axes.text(
            x, y, words, color=LIGHT[colour], size=size * _POINT, ha=_ALIGN[anchor], va="baseline", weight=weight
        )

    def _placed(self, spots: Sequence[Spot]) -> tuple[list[float], list[float]]:
        return [x + _EDGE for x, _ in spots], [y + self._top for _, y in spots]


def draw_figure(path: Path, title: str, charts: Sequence[Plot]) -> None:
    """Write charts as a PNG, one below the other; the folder exists."""
    lines = textwrap.wrap(title, 96)
    head = _EDGE + 1.4 * _TITLE * len(lines)
    tops = [head]
    for chart in charts:
        tops.append(tops[-1] + 2.2 * _LABEL + chart.height + 10)
    width, height = WIDTH + 2 * _EDGE, tops[-1] + _EDGE / 2
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(width / _INCH, height / _INCH), dpi=_DPI, facecolor=LIGHT["card"])
        FigureCanvasAgg(drawn)
        axes = drawn.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.autoscale(enable=False)
        for place, line in enumerate(lines):
            Canvas(axes, _EDGE).written((0, _TITLE * (0.8 + 1.4 * place)), line, "ink", size=_TITLE, strong=True)
        for top, chart in zip(tops, charts, strict=False):  # the last is the end
            Canvas(axes, top).written((0, 1.4 * _LABEL), chart.label, "soft", size=_LABEL)
            chart.draw(Canvas(axes, top + 2.2 * _LABEL))
        drawn.savefig(path, metadata={"Software": None})
