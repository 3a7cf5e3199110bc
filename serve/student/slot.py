"""Versions in service: a request pins its slot at admission, one assignment publishes, the old one drains.

Everything here runs on the event loop's thread, which is why an assignment is atomic and nothing takes a lock.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from store.event import TaskInput
from store.policy import Policy


class Predictions(Protocol):
    """What a student makes of n texts, its temperature already applied."""

    @property
    def members(self) -> NDArray[np.float32]:
        """[members, n, labels]: each member's probabilities."""

    @property
    def probs(self) -> NDArray[np.float32]:
        """[n, labels]: the members, pooled, after temperature."""

    @property
    def novelty(self) -> NDArray[np.float32]:
        """[n]: distance to the nearest reference vector."""


class Student(Protocol):
    """A loaded version."""

    @property
    def labels(self) -> Sequence[str]:
        """Index -> label."""

    @property
    def policy(self) -> Policy | None:
        """What was calibrated for this version; None: it may answer nothing by itself."""

    @property
    def golden_tolerance(self) -> float:
        """The largest deviation from the golden outputs that rounding explains."""

    def predict(self, texts: Sequence[str]) -> Predictions:
        """The student's output for redacted texts."""

    def too_long(self, value: TaskInput) -> bool:
        """Whether truncation would cut the text."""

    def check_golden(self) -> float:
        """The largest deviation from the probabilities that the trainer saw."""


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """One version in memory, and how many requests hold it."""

    version: str
    student: Student
    text_s: float = 0.0  # what one text of a full batch took when it was warmed up; 0: not known
    pins: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def drained(self, deadline_s: float) -> bool:
        """Wait until no request holds the slot; False when the deadline (seconds from now) passed first."""
        if self.pins == 0:
            return True
        self._idle.clear()
        try:
            await asyncio.wait_for(self._idle.wait(), deadline_s)
        except TimeoutError:
            return False
        return True

    def unpin(self) -> None:
        """One request less."""
        self.pins -= 1
        if self.pins == 0:
            self._idle.set()


class Slots:
    """A lane's serving version and the warm one beside it (the previous or, after a rollback, the next)."""

    def __init__(self) -> None:
        """Start cold."""
        self.current: Slot | None = None
        self.spare: Slot | None = None

    @property
    def version(self) -> str | None:
        """The serving version; None while cold."""
        return None if self.current is None else self.current.version

    @contextmanager
    def pinned(self) -> Iterator[Slot | None]:
        """The serving slot, held until the request is answered; None while cold."""
        slot = self.current
        if slot is None:
            yield None
            return
        slot.pins += 1
        try:
            yield slot
        finally:
            slot.unpin()

    def warm(self, version: str) -> Slot | None:
        """The slot that holds a version, if one does."""
        return next((slot for slot in (self.current, self.spare) if slot and slot.version == version), None)

    def publish(self, slot: Slot) -> tuple[float, Slot | None]:
        """Put a loaded slot into service.

        Returns:
            The seconds that the assignment took, and the slot that nobody needs any more.
        """
        old, unneeded = self.current, None if self.spare is slot else self.spare
        started = time.perf_counter()
        self.current, self.spare = slot, old
        return time.perf_counter() - started, unneeded

    def keep_warm(self, slot: Slot) -> Slot | None:
        """Hold a loaded slot beside the serving one; returns the slot that it replaces."""
        replaced, self.spare = self.spare, slot
        return replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """The student's output for one text, as plain numbers."""

    label: str
    confidence: float
    novelty: float
    probs: list[float]
    members: list[list[float]]
    labels: tuple[str, ...] = ()  # what `probs` are of


def on_list(opinion: Opinion, labels: Sequence[str], allowed: Sequence[str]) -> Opinion | None:
    """The opinion among the labels that the lane allows today; None where the version knows none of them.

    A label that was taken off the list keeps its place in the version's map, and is never an answer.
    """
    if opinion.label in allowed:
        return opinion
    places = [place for place, label in enumerate(labels) if label in allowed]
    if not places:
        return None
    best = max(places, key=lambda place: opinion.probs[place])
    return replace(opinion, label=labels[best], confidence=opinion.probs[best])


def opinions(predictions: Predictions, labels: Sequence[str], count: int) -> list[Opinion]:
    """Split a batch's arrays into one record a text.

    Raises:
        ValueError: shapes are wrong, or a number is not finite: the student is broken.
    """
    probs = np.asarray(predictions.probs, dtype=np.float64)
    members = np.asarray(predictions.members, dtype=np.float64)
    novelty = np.asarray(predictions.novelty, dtype=np.float64)
    shape = (count, len(labels))
    if probs.shape != shape or members.shape[1:] != shape or novelty.shape != (count,):
        message = f"a student of {len(labels)} labels gave shapes {probs.shape}, {members.shape}, {novelty.shape}"
        raise ValueError(message)
    if not all(np.isfinite(array).all() for array in (probs, members, novelty)):
        message = "a student gave numbers that are not finite"
        raise ValueError(message)
    best = probs.argmax(axis=1)
    shown: list[Any] = np.clip(probs, 0.0, 1.0).round(6).tolist()
    names = tuple(labels)
    each: list[Any] = np.clip(members, 0.0, 1.0).round(6).transpose(1, 0, 2).tolist()
    return [
        Opinion(
            label=labels[best[row]],
            confidence=min(1.0, max(0.0, float(probs[row, best[row]]))),
            novelty=float(novelty[row]),
            probs=shown[row],
            members=each[row],
            labels=names,
        )
        for row in range(count)
    ]
