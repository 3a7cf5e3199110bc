"""What more comes off an answer that is looked up in a list of labels: pictures, escapes, half tags, an aside.

Where there is no list, these may be what tells two labels apart: `Apple (fruit)` is not `Apple (company)`.
"""

import re
import unicodedata
from typing import Final

from store.answers.unwrap import Layer, Stage

_ESCAPED: Final = {"n": "\n", "r": "\n", "t": " ", '"': '"', "'": "'", "/": "/"}
_ASIDE: Final = re.compile(r"[^()\n]+ \(([^()\n]{1,400})\)", re.DOTALL)
_DOUBTS: Final = re.compile(
    r"n['\u2019]t\b|\b(?:not|no|non|or|nor|vs|versus|maybe|perhaps|possibly|probably|unsure|uncertain|unclear|wrong"
    r"|incorrect|instead|rather|either|neither|except|unless|unlikely|if|but|never|cannot|could|might|may|doubt(?:s|ful)?"
    r"|false|reject(?:ed)?|excluded?|ruled out|alternatively|however|although)\b|\?|(?<![\d.,])0+(?:[.,]0+)? ?%",
    re.IGNORECASE,
)
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([nrt\"'/]))")
_OPTION: Final = re.compile(r"#{1,6}(?=\w)|[A-Za-z]\. (?=\w)|[①-⑳] ?")
_CLOSING_TAG: Final = re.compile(r"</([A-Za-z][\w:.-]{0,40})>\Z")
_OPENING_TAG: Final = re.compile(
    r"<(?:label|answer|output|result|response|category|class|classification|intent|final)>", re.IGNORECASE
)


_CROSSES: Final = frozenset("❌❎✗✘✖☒☐⬜□◻🚫⛔👎🛑")  # they say that it is not the answer


def doubts(aside: str) -> bool:
    """Whether an aside takes back, or halves, what stands before it."""
    return _DOUBTS.search(aside) is not None


def _pictures(text: str) -> Stage:
    """Without emoji and other symbols at the ends."""
    start, end = 0, len(text)
    while start < end and _is_picture(text[start]):
        start += 1
    while end > start and _is_picture(text[end - 1]):
        end -= 1
    return Stage(text=text[start:end])


def _is_picture(character: str) -> bool:
    return character == " " or (character not in _CROSSES and unicodedata.category(character) in ("So", "Sk"))


def _half_tags(text: str) -> Stage | None:
    """A tag without its other half: a prompt that ends in it, or a stop sequence that is it."""
    if (closed := _CLOSING_TAG.search(text)) is not None and f"<{closed[1]}" not in text:
        return Stage(text=text[: closed.start()])
    if (opened := _OPENING_TAG.match(text)) is not None and "</" not in text:
        return Stage(text=text[opened.end() :], is_open=True)
    return None


def _options(text: str) -> Stage | None:
    """Marks of a choice or a heading that stand close: `B. refund`, `#refund`; and `refund##`."""
    mark = _OPTION.match(text)
    text = text[mark.end() :] if mark else text
    closed = ("#",) if text.endswith("##") else ()
    return Stage(text=text.rstrip("#") if closed else text, marks=(*((mark[0].strip(),) if mark else ()), *closed))


def _escapes(text: str) -> Stage:
    """Escapes of JSON that were never undone."""
    if _ESCAPE.search(text) is None:
        return Stage(text=text)
    return Stage(text=_ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _ESCAPED[found[2]], text))


def _aside(text: str) -> Stage | None:
    if (found := _ASIDE.fullmatch(text)) is None:
        return None
    return Stage(text=text[: found.start(1) - 1], aside=found[1])


LISTED: Final[tuple[Layer, ...]] = (_half_tags, _options, _pictures, _escapes, _aside)
