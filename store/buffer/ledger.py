"""How effects and positions are kept together: claim a slot, then apply batches by compare-and-set.

A batch is applied iff its fence is the slot's and the stored position equals the batch's start. "Refuse what is at or
below the stored offset" is not enough: it applies batches twice that straddle the position.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from store.buffer.item import Entry, Item
from store.event import DeadReason, Lane

BEGINNING = "-1"
"""The stored position of a slot that was never applied to."""


class LogSlot(NamedTuple):
    """One partition of one incarnation of a topic: a recreated topic has another UUID and starts anew."""

    topic: str
    uuid: str
    partition: int


class Claim(NamedTuple):
    """The fence that a claim drew, and the position to read from (`BEGINNING` when there is none)."""

    fence: int
    position: str


class Applied(NamedTuple):
    """What became of an application, and the position that is stored now."""

    outcome: Literal["ok", "fenced", "moved"]
    position: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The effects of one batch: everything in it is applied, or nothing."""

    use_case: str
    slot: LogSlot
    fence: int
    start: str
    next: str
    entries: tuple[Entry, ...]
    dead: Mapping[DeadReason, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Where the records of one lane went. counted = events in kept items + evicted."""

    counted: int = 0  # events that were counted into an item when they came
    repeats: int = 0  # events that had been counted before, recognised by id
    ineligible: int = 0  # events that may not be trained on
    evicted: int = 0  # counted events whose items are no longer kept
    new_items: int = 0  # items ever made; what a cycle has not seen yet is counted from it


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTally:
    """Audits of one version: confident answers that were put to the teacher at random."""

    audits: int = 0
    agreed: int = 0


class Buffer(Protocol):
    """What is kept of the log. `k` items per lane and stratum, those with the smallest keyed hash."""

    def claim(self, use_case: str, slot: LogSlot, owner: str) -> Claim:
        """Take a slot over: every earlier fence is void from here on."""

    def apply(self, application: Application) -> Applied:
        """Apply a batch atomically, exactly once.

        A damaged item costs one item: what is left of it is set aside, and it begins anew with this batch.

        Raises:
            StoreUnavailableError: retry; an application that went through before answers `ok` and changes nothing.
            CorruptItemError: an item was written by another release: upgrade, or rebuild the buffer, then retry.
        """

    def positions(self, use_case: str) -> Mapping[LogSlot, str]:
        """The stored position of each slot."""

    def items(self, lane: Lane) -> Iterator[Item]:
        """Every kept item of a lane, in item id order; damaged ones are left out, and `damaged` names them.

        Raises:
            CorruptItemError: an item was written by another release.
        """

    def damaged(self, lane: Lane) -> frozenset[str]:
        """What was found damaged since the buffer was last rebuilt: item ids, and names of what is no item."""

    def counters(self, lane: Lane) -> Counters:
        """Where the lane's records went."""

    def dead(self, use_case: str) -> Mapping[str, int]:
        """Dead letters by reason."""

    def open_dead(self, use_case: str) -> Mapping[str, int]:
        """Dead letters that nobody has dealt with, by reason; one that has none left is 0."""

    def audits(self, lane: Lane) -> Mapping[str, AuditTally]:
        """Audits by version of the student."""
