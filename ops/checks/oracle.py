"""What the replay buffer ought to hold, worked out again from the log by a second, naive program.

It is written from the rules, not from the buffer's code, in plain loops over everything ever read, and keeps every
question for ever: slow, and easy to check by eye. Only what *defines* identity is shared: the event's decoder, the
task's own rules, which read an answer and redact an input, the item id, the subject's token and the hash that orders
items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from store.buffer.ledger import LogSlot
from store.buffer.repair.lists import LabelList, ListsHeld, kept_at, lane_at, list_at
from store.errors import InvalidAnswerError, TooLaboriousError, WrongShapeError
from store.event import MAX_AHEAD_S, Escalation, Lane, Task, Undecodable, UnknownTask, decode
from store.secrets import item_id, subject_token, unit_hash
from store.tasks.rules import TaskRules
from store.tasks.tasks import TASKS, LaneTerms

REMEMBERED_EVENTS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRules:
    """What is needed to tell where a lane's records belong."""

    lane_key: bytes = field(repr=False)
    redaction_key: bytes = field(repr=False)
    subject_key: bytes = field(repr=False)
    task: Task
    training_permitted: bool
    terms: LaneTerms = field(default_factory=LaneTerms)  # of today


@dataclass(slots=True)
class CountedQuestion:
    """Everything that was ever counted for one question."""

    stratum: str
    most_said: int | None  # answers that are kept of each prompt version; None: all, each counted
    events: list[tuple[Escalation, str]] = field(default_factory=list)  # with the answer, in the order of the log
    newest: list[tuple[float, str]] = field(default_factory=list)  # of these the newest by (event time, id)
    asked: int = 0  # repeats included
    strata: set[str] = field(default_factory=set)  # that any event would begin it in, those of repeats included
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
        buried_as: Callable[[LogSlot, int], str] = lambda *_: UnknownTask.buried_as,
    ) -> None:
        """Start with nothing read.

        Args:
            use_case: whose topic is read.
            lanes: of the use case.
            max_age_s: an event older than this when the log took it is dead.
            held: by which labels ingest read each slot, and from where on.
            buried_as: for what reason a record was, of a task that ingest did not keep then.
        """
        self._held = held
        self._buried_as = buried_as
        self._max_age_s = max_age_s
        self._use_case = use_case
        self._rules = lanes
        self.lanes = {lane: LaneTotals() for lane in lanes}
        self.dead: dict[str, int] = {}
        self.records = 0

    def feed(self, value: bytes, timestamp_ms: int, slot: LogSlot, offset: int) -> tuple[Lane, str] | None:
        """Take one record's value, time and place; the question it was about, if it was about one."""
        self.records += 1
        event = decode(value)
        if isinstance(event, Undecodable):
            self._bury(event.reason)
        elif event.use_case != self._use_case:
            self._bury("wrong_use_case")
        elif isinstance(event, UnknownTask) or not kept_at(self._held, slot, offset, event.task):
            self._bury(self._buried_as(slot, offset))  # an earlier release did not wait for one that reads it
        elif (fault := self._of_no_lane(event, slot, offset)) is not None:
            self._bury(fault)
        elif (misdated := self._misdated(event, timestamp_ms / 1000)) is not None:
            self._bury(misdated)
        else:
            return self._take(event, slot, offset)
        return None

    def _take(self, event: Escalation, slot: LogSlot, offset: int) -> tuple[Lane, str] | None:
        """Count an event of a lane, unless its answer or its input cannot be read by the lane's terms of then."""
        lane = self._rules[event.lane]
        then = self._held_then(event.lane, slot, offset)
        rules = TASKS[event.task](then.terms)
        try:
            kept = rules.normal(event, lane.redaction_key)
        except InvalidAnswerError:
            self._bury("off_list")
        except WrongShapeError:
            self._bury("wrong_shape")
        except TooLaboriousError:
            self._bury("unredactable")
        else:
            if kept.eligible and then.training_permitted:
                name = item_id(lane.lane_key, rules, kept.input)
                self._count(self.lanes[event.lane], name, kept, rules)
                if event.subject is not None:
                    token = subject_token(lane.subject_key, event.subject)
                    self.lanes[event.lane].questions[name].subjects[event.subject] = token
                return event.lane, name
            self.lanes[event.lane].ineligible += 1
        return None

    def _of_no_lane(self, event: Escalation, slot: LogSlot, offset: int) -> str | None:
        if event.lane not in self._rules or not lane_at(self._held, slot, offset, event.lane):
            return "unknown_lane"
        return None if self._held_then(event.lane, slot, offset).task == event.task else "wrong_shape"

    def _held_then(self, lane: Lane, slot: LogSlot, offset: int) -> LabelList:
        """What held for a lane when a record was applied; what nobody noted is as it is today."""
        rules = self._rules[lane]
        today = LabelList.of(rules.terms, rules.task, training_permitted=rules.training_permitted)
        return list_at(self._held, slot, offset, lane, today)

    def _misdated(self, event: Escalation, taken_s: float) -> str | None:
        if taken_s <= 0:
            return None
        if taken_s - event.time.timestamp() > self._max_age_s:
            return "too_old"
        return "in_future" if event.time.timestamp() - taken_s > MAX_AHEAD_S else None

    def _bury(self, reason: str) -> None:
        self.dead[reason] = self.dead.get(reason, 0) + 1

    @staticmethod
    def _count(totals: LaneTotals, name: str, event: Escalation, rules: TaskRules) -> None:
        question = totals.questions.get(name)
        if question is None:
            question = totals.questions[name] = CountedQuestion(rules.stratum(event), rules.most_said)
        question.asked += 1
        question.strata.add(rules.stratum(event))
        if event.id in [known for _, known in question.newest]:
            totals.repeats += 1
            return
        totals.counted += 1
        question.events.append((event, rules.said(event)))
        question.newest = sorted([*question.newest, (event.time_s, event.id)])[-REMEMBERED_EVENTS:]
        if event.escalation.reason == "audit" and event.student is not None:
            tally = totals.audits.setdefault(event.student.version, [0, 0])
            tally[0] += 1
            tally[1] += rules.agreed(event) is True


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
    propensities: dict[str, int] = {}
    for event, _ in question.events:
        propensity = repr(event.escalation.propensity)
        propensities[propensity] = propensities.get(propensity, 0) + 1
    times = [event.time_s for event, _ in question.events]
    opinions = sorted((event.time_s, event.id) for event, _ in question.events if event.student is not None)
    subjects = {event.subject for event, _ in question.events if event.subject is not None}
    return {
        "stratum": question.stratum,
        "input": msgspec.to_builtins(_newest(question).input),
        "tally": _tally(question),
        "count": len(question.events),
        "escalated": sum(event.escalation.reason != "audit" for event, _ in question.events),
        "propensities": propensities,
        "first_asked_s": min(times),
        "last_asked_s": max(times),
        "event_ids": question.newest,
        "first_opinion": opinions[0] if opinions else None,
        "subjects": sorted({question.subjects[subject] for subject in subjects}),
    }


def _newest(question: CountedQuestion) -> Escalation:
    return max((event for event, _ in question.events), key=lambda event: (event.time_s, event.id))


def _tally(question: CountedQuestion) -> dict[str, dict[str, int]]:
    """Prompt version -> answer -> how often; of answers that are not counted the newest."""
    tally: dict[str, dict[str, int]] = {}
    for event, said in sorted(question.events, key=lambda one: (one[0].time, one[0].id)):
        answers = tally.setdefault(f"{event.teacher.model}@{event.teacher.prompt_version}", {})
        if question.most_said is None:
            answers[said] = answers.get(said, 0) + 1
            continue
        answers.pop(said, None)
        answers[said] = 1
        if len(answers) > question.most_said:
            del answers[next(iter(answers))]
    return tally
