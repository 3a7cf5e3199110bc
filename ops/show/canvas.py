"""What our figures have in common: ink, paper, and names at the ends of their curves."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK: Final = "#1c2733"
FAINT: Final = "#8794a1"
_STYLE: Final[Any] = {  # matplotlib names every key in its type
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,  # a dollar is a dollar
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#c9d1d8",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecef",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.hashsalt": "understudy",
}


@contextmanager
def figure(path: Path, *, size: tuple[float, float], title: str) -> Iterator[Figure]:
    """A figure to draw on, written to `path` at the end; the folder exists.

    Args:
        path: a PNG.
        size: width and height, inches.
        title: wrapped, in the upper left corner.
    """
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=size, dpi=150, facecolor="white")
        FigureCanvasAgg(drawn)
        words = "\n".join(textwrap.wrap(title, 84))
        drawn.suptitle(words, x=0.07, y=0.985, ha="left", va="top", size=13.5, weight="bold")
        yield drawn
        drawn.savefig(path, metadata={"Software": None})


def label_ends(axes: Axes, at: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right ends of the curves, pushed apart where they would overlap; `at`: where the curves end."""
    low, high = axes.get_ylim()
    gap = 0.062 * (high - low)
    height = high + gap
    for value, text, colour in sorted(ends, reverse=True):
        height = min(value, height - gap)
        axes.annotate(
            text,
            (at, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            weight="bold",
            annotation_clip=False,
            size=9.5,
        )
