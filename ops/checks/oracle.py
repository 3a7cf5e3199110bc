"""What the replay buffer ought to hold, worked out again from the log by a second, naive program.

It is written from the rules, not from the buffer's code, in plain loops over everything ever read, and keeps every
question for ever: slow, and easy to check by eye. Only what *defines* identity is shared: the event's decoder, the
redaction, the item id, the subject's token, the hash that orders items and the reader of answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from store.buffer.ledger import Slot
from store.buffer.repair.lists import LabelList, ListsHeld, lane_at, list_at
from store.errors import InvalidAnswerError, TooLaboriousError
from store.event import (
    MAX_AHEAD_S,
    ChatEscalation,
    ClassifyEscalation,
    Lane,
    RankEscalation,
    Task,
    TextInput,
    Undecodable,
    UnknownTask,
    decode,
)
from store.labels import listed
from store.redact import redact_input
from store.secrets import item_id, subject_token, unit_hash

REMEMBERED_EVENTS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRules:
    """What is needed to tell where a lane's records belong."""

    lane_key: bytes = field(repr=False)
    redaction_key: bytes = field(repr=False)
    subject_key: bytes = field(repr=False)
    task: Task
    training_permitted: bool
    labels: tuple[str, ...] = ()  # none: any
    earlier: tuple[str, ...] = ()  # that were on the list once, of which rulings tell


@dataclass(slots=True)
class CountedQuestion:
    """Everything that was ever counted for one question."""

    stratum: str
    text: str
    events: list[ClassifyEscalation] = field(default_factory=list)  # in the order of the log
    newest: list[tuple[float, str]] = field(default_factory=list)  # of these the newest by (event time, id)
    asked: int = 0  # repeats included
    labels: set[str] = field(default_factory=set)  # every answer, those of repeats included
    subjects: dict[str, str] = field(default_factory=dict)  # as the log has it -> its token


@dataclass(slots=True)
class LaneTotals:
    """One lane's questions and where its records went."""

    questions: dict[str, CountedQuestion] = field(default_factory=dict)
    counted: int = 0
    repeats: int = 0
    ineligible: int = 0
    audits: dict[str, list[int]] = field(default_factory=dict)  # version -> [audits, agreed]


class Oracle:
    """Reads records, in the order of each partition, and knows what must have become of them."""

    def __init__(
        self,
        use_case: str,
        lanes: Mapping[Lane, LaneRules],
        *,
        max_age_s: float,
        held: Sequence[ListsHeld] = (),
    ) -> None:
        """Start with nothing read.

        Args:
            use_case: whose topic is read.
            lanes: of the use case.
            max_age_s: an event older than this when the log took it is dead.
            held: by which labels ingest read each slot, and from where on.
        """
        self._held = held
        self._max_age_s = max_age_s
        self._use_case = use_case
        self._rules = lanes
        self.lanes = {lane: LaneTotals() for lane in lanes}
        self.dead: dict[str, int] = {}
        self.records = 0

    def feed(self, value: bytes, timestamp_ms: int, slot: Slot, offset: int) -> tuple[Lane, str] | None:
        """Take one record's value, time and place; the question it was about, if it was about one."""
        self.records += 1
        event = decode(value)
        if isinstance(event, Undecodable):
            self._bury(event.reason)
        elif event.use_case != self._use_case:
            self._bury("wrong_use_case")
        elif isinstance(event, UnknownTask | RankEscalation | ChatEscalation):
            self._bury(UnknownTask.buried_as)  # an earlier release did not wait for one that reads it
        elif (fault := self._of_no_lane(event, slot, offset)) is not None:
            self._bury(fault)
        elif (misdated := self._misdated(event, timestamp_ms / 1000)) is not None:
            self._bury(misdated)
        elif (label := self._on_list(event, slot, offset)) is None:
            self._bury("off_list")
        elif (redacted := self._redacted(event)) is None:
            self._bury("unredactable")
        elif not event.eligible or not self._rules[event.lane].training_permitted:
            self.lanes[event.lane].ineligible += 1
        else:
            rules = self._rules[event.lane]
            event = msgspec.structs.replace(event, teacher=msgspec.structs.replace(event.teacher, label=label))
            name = item_id(rules.lane_key, "classify", redacted)
            self._count(self.lanes[event.lane], name, event, redacted.text)
            if event.subject is not None:
                token = subject_token(rules.subject_key, event.subject)
                self.lanes[event.lane].questions[name].subjects[event.subject] = token
            return event.lane, name
        return None

    def _of_no_lane(self, event: ClassifyEscalation, slot: Slot, offset: int) -> str | None:
        rules = self._rules.get(event.lane)
        if rules is None or not lane_at(self._held, slot, offset, event.lane):
            return "unknown_lane"
        return None if rules.task == "classify" else "wrong_shape"

    def _on_list(self, event: ClassifyEscalation, slot: Slot, offset: int) -> str | None:
        """The label as the list that held then spells it; None: it was not there."""
        rules = self._rules[event.lane]
        today = LabelList(labels=list(rules.labels), earlier=list(rules.earlier))
        held = list_at(self._held, slot, offset, event.lane, today)
        try:
            return listed(event.teacher.label, held.labels, held.earlier)
        except InvalidAnswerError:
            return None

    def _misdated(self, event: ClassifyEscalation, taken_s: float) -> str | None:
        if taken_s <= 0:
            return None
        if taken_s - event.time.timestamp() > self._max_age_s:
            return "too_old"
        return "in_future" if event.time.timestamp() - taken_s > MAX_AHEAD_S else None

    def _redacted(self, event: ClassifyEscalation) -> TextInput | None:
        try:
            return redact_input(event.input, self._rules[event.lane].redaction_key)
        except TooLaboriousError:
            return None

    def _bury(self, reason: str) -> None:
        self.dead[reason] = self.dead.get(reason, 0) + 1

    @staticmethod
    def _count(totals: LaneTotals, name: str, event: ClassifyEscalation, text: str) -> None:
        question = totals.questions.get(name)
        if question is None:
            question = totals.questions[name] = CountedQuestion(event.teacher.label, text)
        question.asked += 1
        question.labels.add(event.teacher.label)
        if event.id in [known for _, known in question.newest]:
            totals.repeats += 1
            return
        totals.counted += 1
        question.events.append(event)
        question.newest = sorted([*question.newest, (event.time_s, event.id)])[-REMEMBERED_EVENTS:]
        if event.escalation.reason == "audit" and event.student is not None:
            tally = totals.audits.setdefault(event.student.version, [0, 0])
            tally[0] += 1
            tally[1] += event.student.output == event.teacher.label


def rank(lane: Lane, name: str) -> float:
    """The keyed random number that decides who stays: a stratum keeps the smallest."""
    return unit_hash(f"keep/{lane}", name)


def kept(lane: Lane, totals: LaneTotals, items_per_stratum: int) -> dict[str, CountedQuestion]:
    """The questions that must be in the buffer: of each stratum those with the smallest rank."""
    strata: dict[str, list[tuple[float, str]]] = {}
    for name, question in totals.questions.items():
        strata.setdefault(question.stratum, []).append((rank(lane, name), name))
    chosen: dict[str, CountedQuestion] = {}
    for ranked in strata.values():
        for _, name in sorted(ranked)[:items_per_stratum]:
            chosen[name] = totals.questions[name]
    return chosen


def as_kept(question: CountedQuestion) -> dict[str, Any]:
    """The fields of the item that a question's events make, as plain values."""
    tally: dict[str, dict[str, int]] = {}
    propensities: dict[str, int] = {}
    for event in question.events:
        answers = tally.setdefault(f"{event.teacher.model}@{event.teacher.prompt_version}", {})
        answers[event.teacher.label] = answers.get(event.teacher.label, 0) + 1
        propensity = repr(event.escalation.propensity)
        propensities[propensity] = propensities.get(propensity, 0) + 1
    times = [event.time_s for event in question.events]
    opinions = sorted((event.time_s, event.id) for event in question.events if event.student is not None)
    return {
        "stratum": question.stratum,
        "text": question.text,
        "tally": tally,
        "count": len(question.events),
        "escalated": sum(event.escalation.reason != "audit" for event in question.events),
        "propensities": propensities,
        "first_asked_s": min(times),
        "last_asked_s": max(times),
        "event_ids": question.newest,
        "first_opinion": opinions[0] if opinions else None,
        "subjects": sorted(
            {question.subjects[event.subject] for event in question.events if event.subject is not None}
        ),
    }
