"""Small pictures inside the text of a page: bands, bars and intervals, in the colours of its sheet."""

from typing import Final

from markupsafe import Markup

from ops.show.sheet import SvgSheet

_WIDTH: Final = 400
_BAND: Final = 34  # pixels high
_BAR: Final = 8
_INTERVAL: Final = 18
_STEP: Final = 0.05  # scales begin at a multiple of it
_EDGE: Final = 8  # pixels left free, for dots


def scale_from(*values: float | None) -> float:
    """Where a scale of shares begins: below all of them, at a round number."""
    lowest = min((value for value in values if value is not None), default=0.0)
    return max(0.0, round((lowest - _STEP / 2) // _STEP * _STEP, 2))


def band(low: float, high: float, estimate: float | None, target: float | None) -> Markup:
    """What agreement may be, between `scale_from` of these and 1; the target is a tick across."""
    first = scale_from(low, target)
    middle = _BAND / 2
    sheet = SvgSheet(_WIDTH, _BAND)

    def across(value: float) -> float:
        return _EDGE + (_WIDTH - 2 * _EDGE) * (value - first) / (1 - first)

    sheet.curve([(across(first), middle), (across(1.0), middle)], "line", width=2)
    kept = "pass" if target is None or low >= target else "fail" if high < target else "system"
    sheet.curve([(across(max(low, first)), middle), (across(high), middle)], kept, width=9)
    if target is not None:
        sheet.curve([(across(target), 3), (across(target), _BAND - 3)], "ink", width=2)
    if estimate is not None:
        sheet.dot((across(max(estimate, first)), middle), kept, size=7)
    return _drawn(sheet, "band", f"between {low:.1%} and {high:.1%}, target {_percent(target)}")


def bar(ratio: float | None, colour: str = "escalated") -> Markup:
    """A share of a whole."""
    sheet = SvgSheet(_WIDTH, _BAR)
    sheet.curve([(4, _BAR / 2), (_WIDTH - 4, _BAR / 2)], "line", width=_BAR)
    if ratio:
        end = 4 + (_WIDTH - 8) * min(1.0, ratio)
        sheet.curve([(4, _BAR / 2), (end, _BAR / 2)], colour, width=_BAR)
    return _drawn(sheet, "bar", _percent(ratio))


def interval(difference: float, low: float, high: float, *, margin: float, widest: float, refused: bool) -> Markup:
    """A difference around nothing, with what may be lost: `margin` below; the picture is `widest` to either side."""
    sheet, middle = SvgSheet(_WIDTH // 2, _INTERVAL), _INTERVAL / 2
    half = (_WIDTH // 2 - 2 * _EDGE) / 2

    def across(value: float) -> float:
        return _EDGE + half * (1 + max(-1.0, min(1.0, value / widest)))

    sheet.curve([(across(0), 1), (across(0), _INTERVAL - 1)], "soft", width=1)
    sheet.curve([(across(-margin), 3), (across(-margin), _INTERVAL - 3)], "soft", width=1, dashes=(2, 3))
    colour = "fail" if refused else "pass" if low >= -margin else "soft"
    sheet.curve([(across(low), middle), (across(high), middle)], colour, width=3)
    sheet.dot((across(difference), middle), colour, size=4)
    return _drawn(sheet, "interval", f"{difference:+.3f}, between {low:+.3f} and {high:+.3f}")


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _drawn(sheet: SvgSheet, kind: str, label: str) -> Markup:
    return Markup(sheet.svg(kind, label))  # noqa: S704 - numbers, and words that the sheet has escaped
