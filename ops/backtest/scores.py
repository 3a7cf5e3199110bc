"""What one run comes to: scores against true labels and the teacher, and what luck or an oracle would have made."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ops.backtest.log import Log
from ops.backtest.records import Answers, Ask, HardTopic, Run, Slice
from ops.backtest.stream import Stream
from ops.backtest.tasks.part import Part
from serve.escalation import Answer
from store.buffer.topics import find_topics
from store.control import CycleKind
from store.event import StudentOpinion
from store.near.neighbours import conflicts
from store.policy import Metric
from store.redact import redact
from trainer.attempt import Attempt

Words = NDArray[np.object_]

SLICES: Final = 20
_NOBODY: Final = ""
_TOPICS_SHOWN: Final = 12
_KEY: Final = b"understudy backtest: names of topics are shown to people"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowAnswer:
    """What one row got."""

    answer: Answer | None  # None: nobody answered
    opinion: StudentOpinion | None  # of the row's event, from before the label was seen
    called: bool  # the teacher was asked, whatever came of it


@dataclass(slots=True)
class Cycles:
    """The cycles of a run."""

    heads: int = 0
    fine_tunes: int = 0
    refused: int = 0
    cpu_s: float = 0.0
    first_version_row: int | None = None
    certified_row: int | None = None
    served_parameters: int = 0
    encoder_parameters: int = 0

    def count(self, kind: CycleKind, made: Attempt) -> None:
        """One cycle has ended with a verdict."""
        self.heads += kind == "head"
        self.fine_tunes += kind == "fine_tune"
        self.refused += made.verdict.outcome != "pass"

    def promoted(self, row: int, served_parameters: int, *, certified: bool) -> None:
        """A version serves from the row after this one."""
        if self.first_version_row is None:
            self.first_version_row = row + 1
        if certified and self.certified_row is None:
            self.certified_row = row + 1
        self.served_parameters = served_parameters


def to_answers(stream: Stream, rows: Sequence[RowAnswer], part: Part) -> Answers:
    """The rows as columns, answers as outputs of students are written."""
    given = [row.answer for row in rows]
    return Answers(
        rows=stream.places,
        answer=[part.output(one) if one is not None else _NOBODY for one in given],
        by_teacher=np.array([one is not None and one.served_by == "teacher" for one in given], np.bool_),
        reason=[one.reason or "trusted" if one is not None else "nobody" for one in given],
        propensity=np.array([one.propensity if one is not None else 0.0 for one in given]),
        confidence=np.array([_confidence(row, part) for row in rows]),
        version=[one.version or "" if one is not None else "" for one in given],
        student=[_student(row, part) for row in rows],
    )


def to_run(
    ask: Ask,
    log: Log,
    stream: Stream,
    answers: Answers,
    rows: Sequence[RowAnswer],
    cycles: Cycles,
    *,
    calls: int,
    unusable: int,
    seconds: float,
) -> Run:
    """Everything that is said of a run."""
    gold = np.array([log.gold[place] or _NOBODY for place in stream.places], object)
    teacher = np.array([label or _NOBODY for label in stream.labels], object)
    answer, student = (_in_its_words(log, stream, outputs) for outputs in (answers.answer, answers.student))
    withheld = np.array([row.answer is not None and row.answer.withheld for row in rows], np.bool_)
    own = ~answers.by_teacher & np.array([one != _NOBODY for one in answers.answer], np.bool_)
    audits = np.array([reason == "audit" for reason in answers.reason], np.bool_)
    called = np.array([row.called for row in rows], np.bool_)
    spared = own & ~called
    nobody = np.array([row.answer is None for row in rows], np.bool_)
    suspended = withheld | (nobody & ~called) if ask.policy == "promise" else np.zeros(len(rows), np.bool_)
    answered = own & ~withheld & (~called | audits)  # not where it only stood in for the teacher
    known, judged = teacher != _NOBODY, gold != _NOBODY
    random_score, oracle_score = _chance_and_oracle(student, teacher, gold, judged, calls, ask.metric)
    random_agreement, oracle_agreement = _chance_and_oracle(student, teacher, teacher, known, calls, "accuracy")
    return Run(
        ask=ask,
        rows=len(rows),
        calls=calls,
        unspent=ask.budget - calls,
        audits=int(audits.sum()),
        unusable=unusable,
        spared=int(spared.sum()),
        unanswered=int(nobody.sum()),
        suspended_rows=int(suspended.sum()),
        suspended_s=_held_s(stream.times_s, suspended),
        score=score(answer, gold, judged, ask.metric),
        agreement=score(answer, teacher, known, "accuracy"),
        student_accuracy=score(answer, gold, judged & own, "accuracy"),
        paid_accuracy=score(answer, gold, judged & answers.by_teacher, "accuracy"),
        student_rows=int(own.sum()),
        answered_agreement=score(answer, teacher, known & answered, "accuracy"),
        answered_rows=int(answered.sum()),
        random_score=random_score,
        oracle_score=oracle_score,
        random_agreement=random_agreement,
        oracle_agreement=oracle_agreement,
        first_version_row=cycles.first_version_row,
        certified_row=cycles.certified_row,
        head_cycles=cycles.heads,
        fine_tune_cycles=cycles.fine_tunes,
        refused_cycles=cycles.refused,
        encoder_parameters=cycles.encoder_parameters,
        served_parameters=cycles.served_parameters,
        training_cpu_s=cycles.cpu_s,
        seconds=seconds,
        slices=_slices(answer, gold, teacher, judged, known, called, spared, suspended),
    )


def _in_its_words(log: Log, stream: Stream, outputs: Sequence[str]) -> Words:
    """Each output as the teacher would have said it where the two agree, so that words can be compared."""
    said = zip(stream.labels, outputs, strict=True)
    return np.array([log.in_its_words(label, output) for label, output in said], object)


def score(answer: Words, truth: Words, mask: NDArray[np.bool_], metric: Metric) -> float | None:
    """Accuracy, or the mean of each true label's accuracy, over the rows of the mask; None where there are none."""
    if not mask.any():
        return None
    right, true = answer[mask] == truth[mask], truth[mask]
    if metric == "accuracy":
        return float(right.mean())
    return float(np.mean([right[true == label].mean() for label in sorted(set(true))]))


def _confidence(row: RowAnswer, part: Part) -> float:
    if row.opinion is not None:
        return row.opinion.confidence
    if row.answer is not None and row.answer.served_by == "student":
        return part.confidence(row.answer)
    return float("nan")


def _student(row: RowAnswer, part: Part) -> str:
    if row.opinion is not None:
        return row.opinion.output
    return part.output(row.answer) if row.answer is not None and row.answer.served_by == "student" else _NOBODY


def _chance_and_oracle(
    student: Words, teacher: Words, truth: Words, mask: NDArray[np.bool_], calls: int, metric: Metric
) -> tuple[float | None, float | None]:
    """The same student with as many calls, on questions drawn at random, and where they change the score the most.

    The student's answers are those from before it saw a label; where there was no student yet it is wrong. A call that
    brings no usable answer leaves the student's.
    """
    taught = np.where(teacher == _NOBODY, student, teacher)
    alone, all_taught = score(student, truth, mask, metric), score(taught, truth, mask, metric)
    if alone is None or all_taught is None:
        return None, None
    wins = np.flatnonzero(mask & (student != truth) & (taught == truth))
    if metric == "balanced_accuracy":  # a row of a rare label is worth more
        rows_of = Counter(truth[mask])
        wins = wins[np.argsort([rows_of[label] for label in truth[wins]], kind="stable")]
    best = student.copy()
    best[wins[:calls]] = taught[wins[:calls]]
    return alone + calls / len(student) * (all_taught - alone), score(best, truth, mask, metric)


def _slices(
    answer: Words,
    gold: Words,
    teacher: Words,
    judged: NDArray[np.bool_],
    known: NDArray[np.bool_],
    called: NDArray[np.bool_],
    spared: NDArray[np.bool_],
    suspended: NDArray[np.bool_],
) -> list[Slice]:
    result = []
    for part in np.array_split(np.arange(len(answer)), min(SLICES, len(answer))):
        mask = np.zeros(len(answer), np.bool_)
        mask[part] = True
        result.append(
            Slice(
                first_row=int(part[0]),
                rows=len(part),
                calls=int(called[part].sum()),
                spared=int(spared[part].sum()),
                agreement=score(answer, teacher, mask & known, "accuracy"),
                accuracy=score(answer, gold, mask & judged, "accuracy"),
                suspended=int(suspended[part].sum()),
            )
        )
    return result


def _held_s(times_s: NDArray[np.float64], suspended: NDArray[np.bool_]) -> float:
    """How long the promise was suspended: from each row that was withheld to the next row that was not."""
    return float(np.diff(times_s)[suspended[:-1]].sum())


def hard_topics(log: Log, features: NDArray[np.float32], answers: Answers) -> list[HardTopic]:
    """Topics by the share that was escalated in the second half of a run, hardest first.

    Args:
        log: the log.
        features: [rows of the log, any], of the encoder's last layer.
        answers: of one run.
    """
    half = len(answers.rows) // 2
    places = answers.rows[half:]
    texts = [redact(log.texts[place], _KEY) for place in places]
    said = [log.labels[place] or _NOBODY for place in places]
    pairs = conflicts(features[places], texts, said) if log.label_set else []
    found = find_topics(
        features[places],
        texts,
        [1.0] * len(places),
        answers.by_teacher[half:].astype(float).tolist(),
        seed=0,
        conflicted={row for pair in pairs if all(said[one] for one in pair) for row in pair},
    )
    asked = zip(places, answers.student[half:], strict=True)
    student = np.array([log.in_its_words(log.labels[place], output) for place, output in asked], object)
    teacher = np.array([log.labels[place] for place in places], object)
    own = ~answers.by_teacher[half:] & (student != "")
    result = []
    for number, topic in enumerate(found.topics):
        mask = found.of_row == number
        kept = mask & own & (teacher != None)  # noqa: E711 - element by element
        result.append(
            HardTopic(
                name=topic.name,
                rows=int(mask.sum()),
                escalated_ratio=float(answers.by_teacher[half:][mask].mean()) if mask.any() else 0.0,
                agreement=float((student[kept] == teacher[kept]).mean()) if kept.any() else None,
                conflicts=topic.conflicts,
            )
        )
    return sorted(result, key=lambda topic: (-topic.escalated_ratio, topic.name))[:_TOPICS_SHOWN]
