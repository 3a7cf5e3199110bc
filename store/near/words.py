"""The words of a text that may tell what it is about."""

import re
from typing import Final

from store.near.guard import COMMON_WORDS, FILLERS

_REDACTED: Final = re.compile(r"<[A-Z_]+:[0-9a-f]+>")
_WORD: Final = re.compile(r"[^\W\d_]{2,}(?:'[^\W\d_]+)?")


def words_of(text: str) -> list[str]:
    """These words in lower case, in their order; tokens of redaction are none."""
    plain = _REDACTED.sub(" ", text).lower()
    return [word for word in _WORD.findall(plain) if word not in COMMON_WORDS and word not in FILLERS]
