"""A promise over many streams: `python -m tests.bench.promise [--streams 200] [--target .9] [--json]`.

Each stream is some rows of a file, drawn without replacement, replayed by the backtest with a promise: the service's
own gateway, budget, buffer, trainer and gate, the head alone. Two readings of "missed no more often than stated":

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
from typing import Any

import numpy as np
from scipy import stats

from tests.bench.promise_streams import CONFIDENCE, KINDS, SHARED, Kind, Opened, StreamFound, measure
from trainer.judge.intervals import wilson


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run in a child."""

    kind: Kind
    seed: int
    budget_ratio: float  # of the rows


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
    parser.add_argument("--kinds", default="banking,isear", help=f"of streams, of {', '.join(KINDS)}")
    parser.add_argument("--target", type=float, help="answered agreement to promise, instead of each kind's own")
    parser.add_argument("--bound-streams", type=int, default=20, help="of each kind, run with a small budget, too")
    parser.add_argument("--bound", type=float, default=0.4, metavar="RATIO", help="that budget, of the rows")
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
