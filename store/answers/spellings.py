"""Spellings of one label: each look takes a little more for the same, from blanks to case, gaps and accents."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from store.answers.unwrap import QUOTES, clean

_GAPS: Final = r"[\s_\-‐‑‒–—]+"  # noqa: RUF001 - every dash
_SPACED: Final = re.compile(rf"(?<=[^\W\d_]){_GAPS}(?=[^\W_])|(?<=[^\W_]){_GAPS}(?=[^\W\d_])")  # not 1-2 and 12
_JOINED: Final = re.compile(rf"(?<=[^\W\d_]){_GAPS}(?=[^\W\d_])")


def wrong_labels(labels: Sequence[str]) -> str | None:
    """What is wrong with a list of labels, for a person; None: nothing."""
    seen: dict[str, str] = {}
    for place, label in enumerate(labels, 1):
        if not squeezed(label) or any(unicodedata.category(letter) == "Cc" for letter in label):
            return f"label {place} is empty, or holds a character that cannot be seen"
        same = seen.setdefault(joined(label), label)
        if same == label and label in labels[: place - 1]:
            return f"a label is there twice: {label!r}"
        if same != label:
            return f"{same!r} and {label!r} are one label in two spellings: an answer may be either; take one away"
    return None


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
