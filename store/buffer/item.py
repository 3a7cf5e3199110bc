"""One question, asked once or many times, with what the teacher said to it.

Everything in an item is a function of the *set* of its events, so that the order in which partitions interleave, a
restart, or a replay cannot change it.
"""

from typing import Final, Literal

import msgspec

from store.event import ClassifyEscalation, Escalation, LabelAnswer, StudentOpinion, Task, TaskInput

MAX_EVENT_IDS: Final = 32
ONE_STRATUM: Final = "all"

Fate = Literal["counted", "repeat", "ineligible"]


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
    stratum: str  # class of the first answer; "all" for rank and chat
    tally: dict[str, dict[str, int]]  # prompt version -> answer -> events
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


def stratum_of(event: Escalation) -> str:
    """The stratum an item belongs to when this is its first event."""
    return event.teacher.label if isinstance(event.teacher, LabelAnswer) else ONE_STRATUM


def merge(item: Item | None, item_id: str, event: Escalation) -> tuple[Item | None, Fate]:
    """Count one event into its item. Pure; commutative up to the stratum, which the first event decides.

    Raises:
        NotImplementedError: the event's task is not `classify` (its tally is not defined in this release).
    """
    if not event.eligible:
        return item, "ineligible"
    if not isinstance(event, ClassifyEscalation):
        message = "only classify is kept in this release"
        raise NotImplementedError(message)
    if item is not None and any(known == event.id for _, known in item.event_ids):
        return item, "repeat"
    old = item or _empty(item_id, event)
    version = f"{event.teacher.model}@{event.teacher.prompt_version}"
    answers = dict(old.tally.get(version, {}))
    answers[event.teacher.label] = answers.get(event.teacher.label, 0) + 1
    propensity = repr(event.escalation.propensity)
    return msgspec.structs.replace(
        old,
        tally={**old.tally, version: answers},
        count=old.count + 1,
        escalated=old.escalated + (event.escalation.reason != "audit"),
        propensities={**old.propensities, propensity: old.propensities.get(propensity, 0) + 1},
        first_asked_s=min(old.first_asked_s, event.time_s),
        last_asked_s=max(old.last_asked_s, event.time_s),
        event_ids=sorted([*old.event_ids, (event.time_s, event.id)])[-MAX_EVENT_IDS:],
        first_opinion=_earlier(old.first_opinion, event),
        subjects=sorted({*old.subjects, event.subject}) if event.subject is not None else old.subjects,
    ), "counted"


def _empty(item_id: str, event: ClassifyEscalation) -> Item:
    return Item(
        item_id=item_id,
        task="classify",
        input=event.input,
        stratum=stratum_of(event),
        tally={},
        count=0,
        escalated=0,
        propensities={},
        first_asked_s=event.time_s,
        last_asked_s=event.time_s,
        event_ids=[],
        first_opinion=None,
        subjects=[],
    )


def _earlier(known: FirstOpinion | None, event: Escalation) -> FirstOpinion | None:
    """The first opinion by (event time, id): a later one may have been trained on the answer."""
    if event.student is None:
        return known
    new = FirstOpinion(time_s=event.time_s, event_id=event.id, opinion=event.student)
    if known is None:
        return new
    return min(known, new, key=lambda first: (first.time_s, first.event_id))
