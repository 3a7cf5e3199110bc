"""A promise over many streams: `python -m tests.bench.promise [--streams 200] [--target .9] [--json]`.

Each stream is some rows of a file, drawn without replacement, replayed by the backtest with a promise: the service's
own gateway, budget, buffer, trainer and gate, heads alone. Two readings of "missed no more often than stated":

- *runs*: the answers that the student gave by its own decision, over the whole stream and all its versions, agree with
  the teacher less often than promised. This is what a user sees, and what 5 % is held against.
- *versions*: a version's answers to questions of the same kind that are not in the stream agree less often. This is
  what one certificate says. Some are measured below the target by chance: there are a few hundred such rows.

A second run over some of the streams has a budget that binds. Prints one JSON object as its last line.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ops.backtest.log import ColumnNames, read_log
from ops.backtest.records import Answers, Ask, Run
from ops.backtest.replay import Replay
from store.student.student import Student
from trainer.attempt import Attempt
from trainer.judge.intervals import wilson

SHARED: Final = Path(__file__).parents[3] / "shared" / "data"
CONFIDENCE: Final = 0.95
AUDIT_RATIO: Final = 0.05
ESCALATED: Final = frozenset({"low_confidence", "novel"})
NEEDS_NO_THRESHOLD: Final = frozenset({"cold", "too_long"})


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Streams of one kind."""

    name: str
    data: str
    topics: int | None  # labels of a stream, drawn anew for each; None: all
    rows: int
    target: float


KINDS: Final = {
    "banking": Kind(name="banking77, 10 topics", data="banking77.jsonl", topics=10, rows=800, target=0.9),
    "isear": Kind(name="isear", data="isear.jsonl", topics=None, rows=1000, target=0.7),
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
class Job:
    """One run in a child."""

    kind: Kind
    seed: int
    budget_ratio: float  # of the rows


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


def measure(opened: Opened, kind: Kind, seed: int, budget_ratio: float) -> StreamFound:
    """Replay one stream."""
    places, others = opened.draw(kind, seed)
    promoted: list[tuple[int, Student]] = []

    def note(row: int, made: Attempt) -> None:
        promoted.append((row, made.draft.student(made.policy)))

    ask = Ask(
        budget=round(budget_ratio * len(places)),
        seed=seed,
        target=kind.target,
        confidence=CONFIDENCE,
        audit_ratio=AUDIT_RATIO,
        fine_tune=False,
    )
    run, answers = opened.replay.sub(places.tolist()).run(ask, lambda _done, _rows: None, note)
    features, truth = opened.replay.features[others], opened.labels[others]
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


def summary(kind: Kind, found: Sequence[StreamFound]) -> dict[str, Any]:
    """What the streams of one kind came to, where the budget sufficed."""
    answered = [one for one in found if one.run.answered_rows]
    missed = sum((one.run.answered_agreement or 0.0) < kind.target for one in answered)
    versions = [version for one in found for version in one.versions if version.agreement is not None]
    low, high = wilson(missed, len(found))
    return {
        "streams": kind.name,
        "rows": kind.rows,
        "target": kind.target,
        "confidence": CONFIDENCE,
        "runs": len(found),
        "missed_runs": missed,
        "missed_runs_allowed": int(stats.binom.ppf(0.975, len(found), 1 - CONFIDENCE)),
        "missed_runs_interval": [round(low, 3), round(high, 3)],
        "certified_runs": len(answered),
        "agreement": _mean([one.run.answered_agreement for one in answered]),
        "agreement_lowest": min((round(one.run.answered_agreement or 0.0, 4) for one in answered), default=None),
        "versions": len(versions),
        "missed_versions": sum((version.agreement or 0.0) < kind.target for version in versions),
        "missed_first_versions": sum((one.versions[0].agreement or 1.0) < kind.target for one in found if one.versions),
        "answered_rows": _mean([float(one.run.answered_rows) for one in found]),
        "coverage_once_certified": _mean([one.coverage for one in found]),
        "escalated_rows": _mean([float(one.run.calls - one.run.audits) for one in found]),
        "audits": _mean([float(one.run.audits) for one in found]),
        "needless_escalations": sum(one.needless for one in found),
        "certified_at_row": _mean([one.run.certified_row for one in found]),
        "certified_on_rows": _mean([float(one.versions[0].trials) for one in found if one.versions]),
        "cycles": _mean([float(one.run.head_cycles) for one in found]),
        "seconds": _mean([one.run.seconds for one in found]),
    }


def bound(kind: Kind, found: Sequence[StreamFound]) -> dict[str, Any]:
    """What became of the promise where the budget did not suffice."""
    return {
        "streams": kind.name,
        "budget": max((one.run.ask.budget for one in found), default=0),
        "runs": len(found),
        "calls_over_budget": max((one.run.calls - one.run.ask.budget for one in found), default=0),
        "suspended_ratio": _mean([one.run.suspended_rows / one.run.rows for one in found]),
        "suspended_hours": _mean([one.run.suspended_s / 3600 for one in found]),
        "certified_runs": sum(one.run.certified_row is not None for one in found),
        "answered_agreement": _mean([one.run.answered_agreement for one in found]),
        "system_agreement": _mean([one.run.agreement for one in found]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None


_opened: dict[str, Opened] = {}
_cache = Path()


def _start(cache: Path) -> None:
    global _cache  # noqa: PLW0603 - one in a child
    _cache = cache


def _run(job: Job) -> tuple[Job, StreamFound]:
    data = job.kind.data
    if data not in _opened:
        _opened[data] = Opened.open(data, _cache)
    return job, measure(_opened[data], job.kind, job.seed, job.budget_ratio)


def _results(
    wanted: Sequence[Job], jobs: int, cache: Path, embedded: Mapping[str, Opened]
) -> Iterator[tuple[Job, StreamFound]]:
    """Each job's result as it comes: computed here where one at a time is enough."""
    if jobs == 1:
        _opened.update(embedded)
        yield from map(_run, wanted)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(cache,)) as pool:
        for future in as_completed([pool.submit(_run, job) for job in wanted]):
            yield future.result()


def _told(
    report: Callable[[Kind, Sequence[StreamFound]], dict[str, Any]],
    kind: Kind,
    done: Sequence[tuple[Job, StreamFound]],
    budget_ratio: float,
) -> dict[str, Any]:
    return report(kind, [found for job, found in done if job.kind == kind and job.budget_ratio == budget_ratio])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="how often a promise is missed over many streams")
    parser.add_argument("--streams", type=int, default=200, help="of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of streams")
    parser.add_argument("--target", type=float, help="answered agreement to promise, instead of each kind's own")
    parser.add_argument("--bound-streams", type=int, default=20, help="of each kind, run with a small budget, too")
    parser.add_argument("--bound", type=float, default=0.15, metavar="RATIO", help="that budget, of the rows")
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="of the first stream")
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"), help="where features are kept")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    chosen = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"{SHARED}: the data for benchmarks is not here")
    kinds = {name: KINDS[name] for name in chosen.kinds.split(",")}
    if chosen.target is not None:
        kinds = {name: replace(kind, target=chosen.target) for name, kind in kinds.items()}
    seeds = range(chosen.first, chosen.first + chosen.streams)
    jobs = [Job(kind=kind, seed=seed, budget_ratio=1.0) for kind in kinds.values() for seed in seeds]
    jobs += [
        Job(kind=kind, seed=seed, budget_ratio=chosen.bound)
        for kind in kinds.values()
        for seed in seeds[: chosen.bound_streams]
    ]
    started_s = time.monotonic()
    embedded = {data: Opened.open(data, chosen.cache) for data in {kind.data for kind in kinds.values()}}
    embedding_s = time.monotonic() - started_s
    done: list[tuple[Job, StreamFound]] = []
    for job, found in _results(jobs, chosen.jobs, chosen.cache, embedded):
        done.append((job, found))
        print(  # noqa: T201 - progress
            f"{len(done)}/{len(jobs)} {job.kind.name} {job.seed}: {found.run.answered_agreement} of "
            f"{found.run.answered_rows} answers, {found.run.calls} calls, {found.run.seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    report = {
        "kinds": [_told(summary, kind, done, 1.0) for kind in kinds.values()],
        "bound": [_told(bound, kind, done, chosen.bound) for kind in kinds.values() if chosen.bound_streams],
        "embedding_s": round(embedding_s, 1),
        "wall_s": round(time.monotonic() - started_s, 1),
    }
    if not chosen.json:
        print(json.dumps(report, indent=1))  # noqa: T201 - a benchmark reports
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main()
