"""What a task's reader makes of a log: questions with the teacher's answers, and what is to be told of them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from ops.readers.files import BadRow
from ops.readers.times import READABLE_TIMES, Moment
from store.event import Escalation, EscalationCause, Lane, canonical_text

_MOST_IDS: Final = 1_000_000  # that are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRows:
    """What an import says of a row's event, whatever its task."""

    id: str
    time: datetime
    lane: Lane
    model: str
    prompt_version: str
    cause: EscalationCause


class LogRow(Protocol):
    """One good row."""

    @property
    def line(self) -> int:
        """Where it begins in the file."""

    @property
    def key(self) -> str:
        """What makes it the same row when it is imported again."""

    @property
    def time_s(self) -> float | None:
        """When it was, Unix seconds; None: it does not say."""

    def event(self, facts: PublishedRows) -> Escalation:
        """The escalation that the row stands for, its question as it stands there: to be redacted."""


class Reader(Protocol):
    """One log, read as a lane of its task reads it."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Where what was found, for a report: `text` -> `question`."""

    def rows(self, told: "Told") -> Iterator[LogRow | BadRow]:
        """Every row, good or bad, in order; `told` notes what is to be said of them as a whole."""


@dataclass(slots=True, kw_only=True)
class Told:
    """What is to be said of a file as a whole: how answers, times and ids were read, and what was assumed."""

    rows: int = 0  # good ones
    faults: Counter[str] = field(default_factory=Counter)  # of times
    time_column: str | None = None
    future: int = 0
    repeated: int = 0  # rows with id and question of an earlier one
    elsewhere: int = 0  # rows with the id of an earlier one and another question
    remarks: Counter[str] = field(default_factory=Counter)  # of the task's reader: sentences about {count} rows
    _ids: dict[str, int] = field(default_factory=dict)
    _seen: set[tuple[str, int]] = field(default_factory=set)

    def row(self, moment: Moment) -> None:
        """Note a good row."""
        self.rows += 1
        if moment.fault is not None:
            self.faults[moment.fault] += 1
        self.time_column = self.time_column or moment.column

    def id(self, own: str, question: str) -> None:
        """Note a row's id."""
        told = hash(canonical_text(question))
        if (own, told) in self._seen:
            self.repeated += 1
        elif own in self._ids:
            self.elsewhere += 1
        if len(self._seen) < _MOST_IDS:
            self._ids.setdefault(own, told)
            self._seen.add((own, told))

    @property
    def notes(self) -> list[str]:
        """A sentence for each thing that is to be known."""
        column = self.time_column or "a time"
        found = {
            **{sentence.format(count=f"{count:,}"): count for sentence, count in self.remarks.items()},
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


def key_of(own: str | None, question: str, answer: str, seen: dict[str, int], told: Told) -> str:
    """A row's identity: its id, else its question and answer with how often they came before, wherever in the file.

    Args:
        own: its id.
        question: in canonical form.
        answer: the teacher's.
        seen: what came before; changed.
        told: notes ids.
    """
    if own is not None:
        told.id(own, question)
        return f"id\x1f{own}\x1f{question}"
    said = f"{question}\x1f{answer}"
    seen[said] = seen.get(said, 0) + 1
    return f"text\x1f{said}\x1f{seen[said]}"
