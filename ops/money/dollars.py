"""Dollars for people, written in one way everywhere."""

import math
from typing import Final

_DIME: Final = 0.1  # dollars; from here on cents are exact enough
_NOTHING: Final = 5e-10  # less than a billionth is what adding up leaves over


def usd(value: float) -> str:
    """Dollars, with as many digits as they need."""
    if abs(value) < _NOTHING:
        return "$0.00"
    digits = 2 if abs(value) >= _DIME else 1 - math.floor(math.log10(abs(value)))
    return f"{'-' if value < 0 else ''}${abs(value):,.{digits}f}"
