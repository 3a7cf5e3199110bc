"""What is to be said of an imported file as a whole: how answers, times and ids were read, and what was assumed."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from ops.readers.chats import has_system
from ops.readers.times import READABLE_TIMES, Moment
from store.event import canonical_text

_MOST_IDS: Final = 1_000_000  # that are remembered
_TEMPLATE_CHARS: Final = 24  # that every text begins with
_TEMPLATE_ROWS: Final = 10


@dataclass(slots=True, kw_only=True)
class Told:
    """Counts of the rows that were good, but for `unread`."""

    rows: int = 0
    spelled: int = 0  # answers in another spelling than the list's
    unread: Counter[str] = field(default_factory=Counter)  # answers that are no label; "": long ones
    faults: Counter[str] = field(default_factory=Counter)  # of times
    time_column: str | None = None
    future: int = 0
    chats: int = 0  # texts that are the last turn of a chat
    around: int = 0  # of these, those with more turns, which are left out
    repeated: int = 0  # rows with id and text of an earlier one
    elsewhere: int = 0  # rows with the id of an earlier one and another text
    _ids: dict[str, int] = field(default_factory=dict)
    _seen: set[tuple[str, int]] = field(default_factory=set)
    _prefix: str | None = None

    def row(self, text: str, said: str, label: str, moment: Moment, held: tuple[Any, Any]) -> None:
        """Note a good row; `held` is what its columns of text and label hold."""
        self.rows += 1
        self.spelled += said != label
        if moment.fault is not None:
            self.faults[moment.fault] += 1
        self.time_column = self.time_column or moment.column
        if not isinstance(held[0], str) or held[0] is not text:
            self.chats += 1
            self.around += has_system(held[0])
        self._prefix = text if self._prefix is None else _common(self._prefix, text)

    def id(self, own: str, text: str) -> None:
        """Note a row's id."""
        told = hash(canonical_text(text))
        if (own, told) in self._seen:
            self.repeated += 1
        elif own in self._ids:
            self.elsewhere += 1
        if len(self._seen) < _MOST_IDS:
            self._ids.setdefault(own, told)
            self._seen.add((own, told))

    def notes(self, text: str, label: str) -> list[str]:
        """A sentence for each thing that is to be known."""
        column = self.time_column or "a time"
        found = {
            f"{self.chats:,} texts are the last turn of the user in {text}": self.chats,
            f"{self.around:,} of them have a system prompt or other turns around it, which are left out": self.around,
            f"every text begins with the same {len(self._prefix or '')} characters: a template around the question is"
            " learned as part of it; name the question's own column with --text": self._templated,
            f"{self.spelled:,} answers in {label} were in another spelling than the lane's list": self.spelled,
            f"{self.unread.total():,} answers in {label} are none of the lane's labels": self.unread.total(),
            f"{self.faults['none']:,} of {self.rows:,} rows have no time: taken as of just before the quarantine,"
            " so that they are learned from at once": self.faults["none"],
            f"{self.faults['naive']:,} rows have a time in {column} without a zone, which is not used: taken as of just"
            " before the quarantine": self.faults["naive"],
            f"{self.faults['unreadable']:,} rows have something in {column} that is no time ({READABLE_TIMES}): taken"
            " as of just before the quarantine": self.faults["unreadable"],
            f"{self.future:,} rows have a time in the future: taken as of just before the quarantine": self.future,
            f"{self.repeated:,} rows have id and text of an earlier one: they count once": self.repeated,
            f"{self.elsewhere:,} rows have the id of an earlier one and another text: each counts": self.elsewhere,
        }
        return [sentence for sentence, count in found.items() if count]

    @property
    def _templated(self) -> bool:
        return self.rows >= _TEMPLATE_ROWS and len((self._prefix or "").strip()) >= _TEMPLATE_CHARS


def _common(one: str, other: str) -> str:
    """What both begin with."""
    length = next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    return one[: min(len(one), len(other)) if length is None else length]
