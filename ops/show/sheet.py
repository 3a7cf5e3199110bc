"""What a chart is drawn on, and our colours: the page takes them by name, in the light or in the dark."""

from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Final, Literal, Protocol

Spot = tuple[float, float]  # pixels across and down
Anchor = Literal["start", "middle", "end"]

LIGHT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "paper": "#fbfbf9",
        "card": "#ffffff",
        "ink": "#17212b",
        "soft": "#5d6b78",
        "line": "#e3e6e8",
        "grid": "#eef0f1",
        "student": "#0f7fa8",
        "answered": "#1f8a4c",
        "system": "#6b5bb5",
        "escalated": "#c26f00",
        "pass": "#1f8a4c",
        "fail": "#c62f2f",
        "inconclusive": "#a97f00",
        "held": "#4a7f9c",
    }
)
DARK: Final[Mapping[str, str]] = MappingProxyType(
    {
        "paper": "#11161b",
        "card": "#181f26",
        "ink": "#e8edf1",
        "soft": "#96a4b1",
        "line": "#2b343d",
        "grid": "#222a32",
        "student": "#4bb8e0",
        "answered": "#4cc47f",
        "system": "#a597ee",
        "escalated": "#f0a33c",
        "pass": "#4cc47f",
        "fail": "#f0716c",
        "inconclusive": "#e0bb3f",
        "held": "#7fb4d0",
    }
)
VEIL: Final = 0.14  # opacity of a band


class Sheet(Protocol):
    """Takes what a chart consists of, in pixels; colours are names of `LIGHT`."""

    @property
    def width(self) -> int:
        """Pixels."""

    def curve(self, spots: Sequence[Spot], colour: str, *, width: float, dashes: Sequence[float] = ()) -> None:
        """A line through spots, of so many pixels, with (on, off, ...) dashes."""

    def band(self, spots: Sequence[Spot], colour: str) -> None:
        """A pale area with this outline."""

    def dot(self, spot: Spot, colour: str, *, size: float, told: str = "") -> None:
        """A point of this radius; `told` is shown when one points at it, where one can."""

    def text(
        self, spot: Spot, words: str, colour: str = "ink", *, anchor: Anchor = "start", strong: bool = False
    ) -> None:
        """Words on one line."""


class SvgSheet:
    """A part of a page."""

    def __init__(self, width: int, height: int) -> None:
        """Empty, of so many pixels."""
        self.width, self.height = width, height
        self._parts: list[str] = []

    def curve(self, spots: Sequence[Spot], colour: str, *, width: float, dashes: Sequence[float] = ()) -> None:
        """See `Sheet`."""
        dashed = f' stroke-dasharray="{" ".join(f"{one:g}" for one in dashes)}"' if dashes else ""
        self._parts.append(
            f'<path d="{_path(spots)}" fill="none" stroke="var(--{colour})" stroke-width="{width:g}"'
            f' stroke-linejoin="round" stroke-linecap="round"{dashed}/>'
        )

    def band(self, spots: Sequence[Spot], colour: str) -> None:
        """See `Sheet`."""
        self._parts.append(f'<path d="{_path(spots)}Z" fill="var(--{colour})" opacity="{VEIL:g}"/>')

    def dot(self, spot: Spot, colour: str, *, size: float, told: str = "") -> None:
        """See `Sheet`."""
        title = f"<title>{escape(told)}</title>" if told else ""
        self._parts.append(
            f'<circle cx="{spot[0]:.1f}" cy="{spot[1]:.1f}" r="{size:g}" fill="var(--{colour})"'
            f' stroke="var(--card)" stroke-width="2">{title}</circle>'
        )

    def text(
        self, spot: Spot, words: str, colour: str = "ink", *, anchor: Anchor = "start", strong: bool = False
    ) -> None:
        """See `Sheet`."""
        weight = ' font-weight="600"' if strong else ""
        self._parts.append(
            f'<text x="{spot[0]:.1f}" y="{spot[1]:.1f}" text-anchor="{anchor}" fill="var(--{colour})"{weight}>'
            f"{escape(words)}</text>"
        )

    def svg(self, kind: str, label: str) -> str:
        """All of it as one element of this class, named for those who cannot see it."""
        frame = f'viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}"'
        return f'<svg class="{kind}" {frame}>{"".join(self._parts)}</svg>'


def _path(spots: Sequence[Spot]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
