"""One stream of the promise's benchmark: its rows, its replay, and what became of the promise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ops.backtest.records import Answers, Ask, Run
from ops.backtest.replay import Replay
from ops.backtest.tasks.texts import ColumnNames, read_log
from store.student.classify import Student
from trainer.attempt import Attempt
from trainer.learn.classify.recipe import classifier

SHARED: Final = Path(__file__).parents[3] / "shared" / "data"
CONFIDENCE: Final = 0.95
AUDIT_RATIO: Final = 0.05
NEEDS_NO_THRESHOLD: Final = frozenset({"cold", "too_long"})


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Streams of one kind."""

    name: str
    data: str
    topics: int | None  # labels of a stream, drawn anew for each; None: all
    rows: int
    target: float
    noise: float = 0.0  # share of the teacher's answers that are any of the stream's labels


KINDS: Final = {
    "banking": Kind(name="banking77, 10 topics", data="banking77.jsonl", topics=10, rows=800, target=0.9),
    "isear": Kind(name="isear", data="isear.jsonl", topics=None, rows=1000, target=0.65),
    "noisy": Kind(
        name="banking77, 10 topics, a teacher that guesses once in ten",
        data="banking77.jsonl",
        topics=10,
        rows=800,
        target=0.88,
        noise=0.1,
    ),
}


class VersionFound(msgspec.Struct, frozen=True, kw_only=True):
    """A certified version, by itself."""

    row: int  # it serves from here
    trials: int  # rows that its certificate rests on
    coverage: float | None  # of questions outside the stream; None: there are none
    agreement: float | None  # of its answers to those
    answered: int  # rows of the stream


class StreamFound(msgspec.Struct, frozen=True, kw_only=True):
    """One stream, replayed once."""

    run: Run
    versions: list[VersionFound]
    coverage: float | None  # share of the rows after the first certificate that the student answered
    needless: int  # escalations after it that no threshold, novelty, length or audit asked for


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A file with its features; every stream shares them."""

    replay: Replay
    labels: NDArray[np.object_]

    @staticmethod
    def open(data: str, cache: Path) -> "Opened":
        """Read it, and compute the features that the cache lacks."""
        log = read_log(SHARED / data, ColumnNames(), 1.0)
        replay = Replay(log, encoder="minilm", cache=cache / data)
        replay.prepare(lambda _done, _rows: None)
        return Opened(replay=replay, labels=np.array(log.labels, object))

    def draw(self, kind: Kind, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of one stream's rows, in its order, and of the rows like them that are left."""
        rng = np.random.default_rng(seed)
        names = sorted({label for label in self.labels if label is not None})
        topics = names if kind.topics is None else rng.choice(names, kind.topics, replace=False)
        order = rng.permutation(np.flatnonzero(np.isin(self.labels, topics)))
        return order[: kind.rows], order[kind.rows :]

    def answers(self, kind: Kind, seed: int, places: NDArray[np.int64]) -> NDArray[np.object_]:
        """What the teacher of one stream says to every row of the file."""
        rng = np.random.default_rng([seed, 1])
        guesses = rng.choice(np.unique(self.labels[places].astype(str)), len(self.labels))
        return np.where(rng.random(len(self.labels)) < kind.noise, guesses.astype(object), self.labels)


def measure(opened: Opened, kind: Kind, seed: int, budget_ratio: float) -> StreamFound:
    """Replay one stream."""
    places, others = opened.draw(kind, seed)
    promoted: list[tuple[int, Student]] = []

    def note(row: int, made: Attempt) -> None:
        promoted.append((row, classifier(made.draft.student(made.policy))))

    ask = Ask(
        budget=round(budget_ratio * len(places)),
        seed=seed,
        target=kind.target,
        confidence=CONFIDENCE,
        audit_ratio=AUDIT_RATIO,
        fine_tune=False,
    )
    teacher = opened.answers(kind, seed, places)
    stream = opened.replay.sub(places.tolist())
    stream.log = replace(stream.log, labels=teacher[places].tolist())
    run, answers = stream.run(ask, lambda _done, _rows: None, note)
    features, truth = opened.replay.features[others], teacher[others]
    return StreamFound(
        run=run,
        versions=[
            _version(number, row, student, answers, features, truth)
            for number, (row, student) in enumerate(promoted, start=1)
        ],
        coverage=_coverage(run, answers),
        needless=needless(run, answers, [student for _, student in promoted]),
    )


def needless(run: Run, answers: Answers, students: Sequence[Student]) -> int:
    """Rows after the first certificate that went to the teacher though the serving version trusted its answer."""
    count = 0
    for row in range(run.certified_row or run.rows, run.rows):
        reason, version = answers.reason[row], answers.version[row]
        if not answers.by_teacher[row] or reason in NEEDS_NO_THRESHOLD or reason == "novel":
            continue
        policy = students[int(version.removeprefix("v")) - 1].policy
        sure = policy is not None and policy.threshold is not None and answers.confidence[row] >= policy.threshold
        count += bool(reason != "low_confidence" or sure)
    return count


def _coverage(run: Run, answers: Answers) -> float | None:
    if run.certified_row is None or run.certified_row >= run.rows:
        return None
    return float((~answers.by_teacher[run.certified_row :]).mean())


def _version(
    number: int, row: int, student: Student, answers: Answers, features: Any, truth: NDArray[np.object_]
) -> VersionFound:
    policy = student.policy
    if policy is None or policy.threshold is None or policy.novelty_threshold is None:
        message = f"version {number} was promoted without a certificate"
        raise ValueError(message)
    said = student.predict_from(features, None)
    trusted = (said.probs.max(axis=1) >= policy.threshold) & (said.novelty <= policy.novelty_threshold)
    right = np.array(student.labels, object)[said.probs.argmax(axis=1)] == truth
    mine = ~answers.by_teacher & (np.array(answers.version, object) == f"v{number}")
    return VersionFound(
        row=row,
        trials=policy.rows,
        coverage=float(trusted.mean()) if len(truth) else None,
        agreement=float(right[trusted].mean()) if trusted.any() else None,
        answered=int(mine.sum()),
    )
