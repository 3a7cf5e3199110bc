"""What a person may name: an event, the response that it stands behind, or an item; and what an id tells. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from ops.exits import RefusedError
from store.secrets import ITEM_ID_HEX_DIGITS

_UUID_CHARACTERS: Final = 36
_VERSION_AT: Final = 14  # the digit that tells how a UUID was made
_TIME_ORDERED: Final = "7"
_LEAST: Final = 4  # characters of a beginning
_RESPONSES: Final = re.compile(r"(?:chatcmpl|classify|rerank|cmpl)-(?=[0-9a-f]{8}-)")
_HEX: Final = re.compile(r"[0-9a-f-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """What was named, in lower case; maybe only the beginning of it."""

    text: str
    response: bool = False  # of a whole response, which may hold the answers of several events

    @property
    def whole_event(self) -> bool:
        """Whether it is all of an event's id."""
        return len(self.text) == _UUID_CHARACTERS

    @property
    def may_be_item(self) -> bool:
        """Whether an item's id may begin so."""
        return not self.response and "-" not in self.text

    @property
    def asked_ms(self) -> int | None:
        """When the request was made, Unix milliseconds: a gateway's id holds it (RFC 9562, version 7).

        None for a beginning, and for an id that was made from an `Idempotency-Key`, which holds none.
        """
        if not self.whole_event or self.text[_VERSION_AT] != _TIME_ORDERED:
            return None
        return int(self.text[:8] + self.text[9:13], 16)


def name_of(given: str) -> Name:
    """What is meant.

    Raises:
        RefusedError: it is no id, nor the beginning of one.
    """
    text = given.strip().lower()
    found = _RESPONSES.match(text)
    text = text[found.end() :] if found else text
    longest = _UUID_CHARACTERS if "-" in text else ITEM_ID_HEX_DIGITS
    if not _HEX.fullmatch(text) or not _LEAST <= len(text) <= longest or _misplaced(text):
        message = (
            f"{given!r} is no id: name an event (the header X-Understudy-Event, or `event_id` of an answer), a response"
            f" (its `id`) or an item (`understudy buffer show`), or the first {_LEAST} characters or more of one"
        )
        raise RefusedError(message)
    return Name(text=text, response=found is not None)


def _misplaced(text: str) -> bool:
    """Whether a dash stands where no UUID has one."""
    return any((one == "-") != (at in {8, 13, 18, 23}) for at, one in enumerate(text)) if "-" in text else False
