"""One question, asked once or many times, with what the teacher said to it.

Everything in an item is a function of the *set* of its events, so that the order in which partitions interleave, a
restart, or a replay cannot change it.
"""

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from store.event import Escalation, Lane, StudentOpinion, Task, TaskInput
from store.tasks.rules import TaskRules

MAX_EVENT_IDS: Final = 32

Fate = Literal["counted", "repeat", "ineligible"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One valid event as it is kept, with the identity of its question and all that its task knows of it."""

    lane: Lane
    item_id: str
    event: Escalation
    said: str  # the teacher's answer, as the item counts it
    most_said: int | None  # how many answers of a prompt version are kept, the last by name; None: all, each counted
    stratum: str  # of the item, where this is its first event
    agreed: bool | None  # whether the student said the same; None: no student was asked

    @staticmethod
    def of(event: Escalation, item_id: str, rules: TaskRules) -> "Entry":
        """What the rules of its lane say of an event in its kept form."""
        return Entry(
            lane=event.lane,
            item_id=item_id,
            event=event,
            said=rules.said(event),
            most_said=rules.most_said,
            stratum=rules.stratum(event),
            agreed=rules.agreed(event),
        )


class FirstOpinion(msgspec.Struct, frozen=True, kw_only=True):
    """The student's opinion from the item's first event: it was formed before the label was seen."""

    time_s: float
    event_id: str
    opinion: StudentOpinion


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One question of one lane."""

    item_id: str
    task: Task
    input: TaskInput
    stratum: str  # as its first event says
    tally: dict[str, dict[str, int]]  # prompt version -> answer, as the task's rules spell it -> events
    count: int  # events counted, exact repeats of an event left out
    escalated: int  # of these, not audits
    propensities: dict[str, int]  # repr(propensity) -> events; a sum of floats would depend on the order
    first_asked_s: float  # event time, Unix seconds
    last_asked_s: float
    event_ids: list[tuple[float, str]]  # the newest 32, (event time, id), ascending
    first_opinion: FirstOpinion | None
    subjects: list[str]  # opaque ids, sorted

    @property
    def mass(self) -> float:
        """The number of requests this item stands for: the sum of 1/propensity (Horvitz and Thompson 1952)."""
        return sum(n / float(propensity) for propensity, n in sorted(self.propensities.items()))

    def answers(self, prompt_version: str) -> dict[str, int]:
        """The answers of one prompt version, with how often each was given."""
        return self.tally.get(prompt_version, {})


def merge(item: Item | None, entry: Entry) -> tuple[Item | None, Fate]:
    """Count one event into its item. Pure; commutative up to the stratum, which the first event decides.

    The input is kept as the newest event spells it: spellings of one question differ in layout at most.
    """
    event = entry.event
    if not event.eligible:
        return item, "ineligible"
    if item is not None and any(known == event.id for _, known in item.event_ids):
        return item, "repeat"
    old = item or _empty(entry)
    propensity = repr(event.escalation.propensity)
    event_ids = sorted([*old.event_ids, (event.time_s, event.id)])[-MAX_EVENT_IDS:]
    return msgspec.structs.replace(
        old,
        input=event.input if event_ids[-1][1] == event.id else old.input,
        tally=_tally(old.tally, entry),
        count=old.count + 1,
        escalated=old.escalated + (event.escalation.reason != "audit"),
        propensities={**old.propensities, propensity: old.propensities.get(propensity, 0) + 1},
        first_asked_s=min(old.first_asked_s, event.time_s),
        last_asked_s=max(old.last_asked_s, event.time_s),
        event_ids=event_ids,
        first_opinion=_earlier(old.first_opinion, event),
        subjects=sorted({*old.subjects, event.subject}) if event.subject is not None else old.subjects,
    ), "counted"


def _empty(entry: Entry) -> Item:
    return Item(
        item_id=entry.item_id,
        task=entry.event.task,
        input=entry.event.input,
        stratum=entry.stratum,
        tally={},
        count=0,
        escalated=0,
        propensities={},
        first_asked_s=entry.event.time_s,
        last_asked_s=entry.event.time_s,
        event_ids=[],
        first_opinion=None,
        subjects=[],
    )


def _tally(tally: dict[str, dict[str, int]], entry: Entry) -> dict[str, dict[str, int]]:
    """The tally with one answer more; of answers that are each an event's own, the last so many by name are kept."""
    version = f"{entry.event.teacher.model}@{entry.event.teacher.prompt_version}"
    answers = dict(tally.get(version, {}))
    if entry.most_said is None:
        answers[entry.said] = answers.get(entry.said, 0) + 1
    else:
        answers = dict.fromkeys(sorted({*answers, entry.said})[-entry.most_said :], 1)
    return {**tally, version: answers}


def _earlier(known: FirstOpinion | None, event: Escalation) -> FirstOpinion | None:
    """The first opinion by (event time, id): a later one may have been trained on the answer."""
    if event.student is None:
        return known
    new = FirstOpinion(time_s=event.time_s, event_id=event.id, opinion=event.student)
    if known is None:
        return new
    return min(known, new, key=lambda first: (first.time_s, first.event_id))
