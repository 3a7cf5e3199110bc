"""What the document says of one form in which a task is asked: the types, which hold what is true, and examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

SCHEMAS: Final = "#/components/schemas/"
MAX_HEADER_CHARS: Final = 256
"""Of an Idempotency-Key and of a request's `user`."""

NOT_BLANK: Final = r"[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
"""Something that `str.strip` leaves: what `\\S` means is another thing in each language."""
Model = Annotated[str, msgspec.Meta(description="The use case, as the settings name it.")]
User = Annotated[
    str | None,
    msgspec.Meta(
        description="The subject, for erasure; kept as a keyed token.",
        extra_json_schema={"minLength": 1, "maxLength": MAX_HEADER_CHARS},
    ),
]
Text = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": NOT_BLANK, "maxLength": "max_text_chars"})]
"""A text that is read. A bound that is a name is the gateway's setting of that name: see `document.bounded`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One form. What its types cannot say, their `extra_json_schema` does; nothing is decoded by that."""

    summary: str
    description: str
    asked: type[msgspec.Struct]  # the body of a request
    answered: Any  # a TypedDict: the body of an answer
    example: Mapping[str, Any]  # a request
    answer: Mapping[str, Any]  # to it
    chunk: Any = None  # a TypedDict: the data of a stream's events; None: it does not stream
    named: Sequence[Any] = ()  # TypedDicts that the others name by their place under `SCHEMAS`
