"""Spellings of one label: each look takes a little more for the same, from blanks to case, gaps and accents."""

import re
import unicodedata
from typing import Final

from store.answers.unwrap import QUOTES, clean

_GAPS: Final = r"[\s_\-‐‑‒–—]+"  # noqa: RUF001 - every dash
_SPACED: Final = re.compile(rf"(?<=[^\W\d_]){_GAPS}(?=[^\W_])|(?<=[^\W_]){_GAPS}(?=[^\W\d_])")  # not 1-2 and 12
_JOINED: Final = re.compile(rf"(?<=[^\W\d_]){_GAPS}(?=[^\W\d_])")


def squeezed(text: str) -> str:
    """NFC, without what cannot be seen, each run of blanks as one."""
    return " ".join(unicodedata.normalize("NFC", clean(text)).split())


def caseless(text: str) -> str:
    """As `squeezed`, with compatible letters and case as one."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", clean(text)).casefold()).split())


def spaced(text: str) -> str:
    """As `caseless`, with every gap between words as a blank."""
    return _SPACED.sub(" ", caseless(text))


def joined(text: str) -> str:
    """As `caseless`, with no gaps between words."""
    return _JOINED.sub("", caseless(text))


def accentless(text: str) -> str:
    """As `spaced`, with the letters that are left where no accents can be typed."""
    letters = unicodedata.normalize("NFD", spaced(text))
    return "".join(letter for letter in letters if not "\u0300" <= letter <= "\u036f")


def bare(label: str) -> str:
    """A label without quotes and stops at its ends, as a teacher may write it."""
    return label.strip(QUOTES + " .,;:!?")
