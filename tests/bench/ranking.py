"""Agreement per teacher call of the ranking student: `python -m tests.bench.ranking --data FILE --json`.

Lists are replayed by the backtest: the service's own gateway, budget, buffer, trainer and gate. Beside it stand the
same learner with lists bought at random, all calls on the first lists and one training, the base encoder's cosines
alone, and the teacher against a noisy copy of itself; once on real text and once on a shop whose teacher has favourites
that only its scores tell. `coverage` is what a cycle of a lane that promises certifies on 800 of the lists, and what is
kept on lists that nothing has seen. `promise` replays many streams of simulated teachers, whose truth is known
(`tests.bench.ranking_promise`). Prints one JSON object as its last line.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from ops.backtest.log import Log
from ops.backtest.records import Ask, Run
from ops.backtest.replay import DEFAULT_CYCLE, DEFAULT_SCHEDULE, Replay
from ops.backtest.tasks.lists import read_rankings
from store.errors import SettingsError
from store.tasks.measures import best_first
from store.tasks.rank import Tolerance, agree, heard
from tests.bench.catalogue import write_shop
from tests.bench.ranking_promise import Stream, measure, summary
from tests.bench.variants import BASELINES, NEVER, OURS, swapped
from trainer.attempt import Attempt
from trainer.learn.recipe import weights_of
from trainer.snapshot import rows_of

DATA: Final = Path(__file__).parents[3] / "shared" / "data" / "rerank.jsonl"
PARTS: Final = ("agreement", "coverage", "promise")
RERANK, CATALOGUE, SIMULATED = "rerank", "catalogue", "simulated"
_BUDGETS: Final = {RERANK: (300, 600), CATALOGUE: (225, 450)}
_TOLERANCES: Final = {
    RERANK: Tolerance(k=1, epsilon=0.05),
    CATALOGUE: Tolerance(k=1, epsilon=0.0),
    SIMULATED: Tolerance(k=1, epsilon=0.2),  # near the target: a promise that is easily kept tells nothing
}
_WAYS: Final = {"ours": OURS, "random": BASELINES["random_escalation"], "first": BASELINES["one_off_training"]}
_CALIBRATION: Final = 800
_JUDGE_RATIO: Final = 0.3
_TARGET: Final = 0.9
_NOISE: Final = (0.01, 0.02, 0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One replay."""

    data: str
    way: str  # of `_WAYS`, "coverage" or "promise"
    order: int
    budget: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Where the lists lie, and how they are replayed."""

    files: dict[str, Path]
    encoder: str
    cache: Path

    def replay(self, data: str) -> Replay:
        """With the vectors that the cache lacks computed."""
        tolerance = _TOLERANCES[data]
        log = read_rankings(self.files[data], {}, 1.0, k=tolerance.k, epsilon=tolerance.epsilon)
        made = Replay(log, encoder=self.encoder, cache=self.cache / data)
        made.prepare(_unseen)
        return made


_opened: list[Opened] = []  # of a child, one
_replays: dict[str, Replay] = {}


def _open(opened: Opened) -> None:
    _opened.append(opened)


def _run(job: Job) -> tuple[Job, Run | dict[str, float] | Stream]:
    if job.data not in _replays:
        _replays[job.data] = _opened[0].replay(job.data)
    replay = _replays[job.data]
    if job.way == "promise":
        return job, measure(replay, job.order)
    if job.way == "coverage":
        return job, coverage(replay, job.order)
    ask = Ask(budget=job.budget, seed=job.order, shuffled=True)
    variant = _WAYS[job.way]
    replay.cycle, replay.schedule = replace(DEFAULT_CYCLE, encoder=replay.cycle.encoder), DEFAULT_SCHEDULE
    replay.schedule = variant.schedule(DEFAULT_SCHEDULE, ask)
    with swapped(variant.parts):
        return job, replay.run(variant.ask(ask), _unseen)[0]


def coverage(replay: Replay, order: int) -> dict[str, float]:
    """What the first cycle of a promising lane certifies with 800 lists, and what holds on lists that it judged by.

    Every list has been paid for, since nothing serves before the one cycle that there is; who is held out is drawn anew
    for each order.
    """
    rows = replay.log.rows
    split = replace(
        DEFAULT_CYCLE.split,
        salt=f"coverage {order}",
        calibrate_ratio=_CALIBRATION / rows,
        judge_ratio=_JUDGE_RATIO,
    )
    replay.cycle = replace(DEFAULT_CYCLE, encoder=replay.cycle.encoder, split=split)
    replay.schedule = replace(DEFAULT_SCHEDULE, min_new_labels=int(0.99 * rows), every_s=NEVER)
    made: list[Attempt] = []
    ask = Ask(budget=rows, seed=order, shuffled=True, target=_TARGET, fine_tune=False)
    replay.run(ask, _unseen, lambda _row, one: made.append(one))
    if not made:
        return {"certified": 0.0, "calibration": 0.0, "answered": 0.0}
    (found,) = made
    snapshot, policy = found.frozen.snapshot, found.policy
    places = rows_of(snapshot, "judge")
    said = found.frozen.scored(found.draft.student(policy), places, weights_of(snapshot.rows, places, "each"))
    answered = said.confidence >= (policy.threshold if policy.threshold is not None else np.inf)
    answered &= said.novelty <= (policy.novelty_threshold if policy.novelty_threshold is not None else np.inf)
    return {
        "certified": policy.coverage_ratio,
        "calibration": float(len(rows_of(snapshot, "calibrate"))),
        "answered": float(answered.mean()),
        "agreement": float(said.agreed[answered].mean()) if answered.any() else float("nan"),
        "auroc": _auroc(said.confidence, said.agreed >= 1.0),
    }


def _auroc(sure: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    """Chance that an agreed answer is surer than one that is not (Mann and Whitney)."""
    if right.all() or not right.any():
        return float("nan")
    found = stats.mannwhitneyu(sure[right], sure[~right]).statistic
    return float(found) / (int(right.sum()) * int((~right).sum()))


def teacher_itself(log: Log) -> dict[str, float]:
    """How often a copy of the teacher with normal noise agrees with it."""
    rng = np.random.default_rng(0)
    given = [np.array(heard([said])[0].scores) for said in log.labels if said is not None]
    tolerance = log.tolerance or Tolerance()

    def again(noise: float) -> float:
        drawn = [(one, one + rng.normal(0.0, noise, len(one))) for one in given]
        keys = [[str(place) for place in range(len(one))] for one in given]
        return float(
            np.mean(
                [agree(one, best_first(copy, key), tolerance) for (one, copy), key in zip(drawn, keys, strict=True)]
            )
        )

    return {f"{noise}": round(again(noise), 4) for noise in _NOISE}


def jobs_of(parts: Sequence[str], orders: int, streams: int) -> list[Job]:
    """All replays, the ones that matter most first."""
    every = {
        "agreement": [
            Job(data=data, way=way, budget=budget, order=order)
            for order in range(1, orders + 1)
            for data, budgets in _BUDGETS.items()
            for budget in budgets
            for way in _WAYS
        ],
        "coverage": [Job(data=RERANK, way="coverage", budget=0, order=order) for order in range(1, orders + 1)],
        "promise": [Job(data=SIMULATED, way="promise", budget=0, order=order) for order in range(1, streams + 1)],
    }
    return [job for part in parts for job in every[part]]


def report(done: Sequence[tuple[Job, Any]]) -> dict[str, dict[str, Any]]:
    """Means over the orders, and standard errors: data -> `way@budget` -> numbers."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for job, run in done:
        if isinstance(run, Run):
            groups.setdefault((job.data, f"{job.way}@{job.budget}"), []).append(run)
    found: dict[str, dict[str, Any]] = {}
    for (data, name), runs in sorted(groups.items()):
        agreed = np.array([run.agreement for run in runs], np.float64)
        error = float(agreed.std(ddof=1) / np.sqrt(len(agreed))) if len(agreed) > 1 else float("nan")
        found.setdefault(data, {})[name] = {
            "agreement": round(float(agreed.mean()), 4),
            "standard_error": round(error, 4),
            "calls": max(run.calls for run in runs),
            "cycles": [[run.head_cycles, run.fine_tune_cycles, run.refused_cycles] for run in runs],
            "seconds": round(float(np.mean([run.seconds for run in runs])), 1),
        }
        untrained = float(np.mean([run.others["untrained"] for run in runs]))
        found[data]["untrained"] = {"agreement": round(untrained, 4)}
    return found


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in found for name in one)
    return {name: round(float(np.nanmean([one.get(name, np.nan) for one in found])), 4) for name in names}


def _unseen(_done: int, _rows: int) -> None:
    """Nobody looks."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="the ranking benchmark: agreement against teacher calls")
    parser.add_argument("--data", type=Path, default=DATA, help="JSONL with query, documents and teacher.scores")
    parser.add_argument("--encoder", default="minilm", help="a model directory; default: the wheel's")
    parser.add_argument("--orders", type=int, default=5, help="shuffled orders")
    parser.add_argument("--streams", type=int, default=200, help="of simulated teachers")
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"), help="where vectors are kept")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of these to run")
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    chosen = parser.parse_args()
    started_s = time.monotonic()
    chosen.cache.mkdir(parents=True, exist_ok=True)
    files = {
        RERANK: chosen.data,
        CATALOGUE: write_shop(chosen.cache / "catalogue.jsonl", rows=1_500),
        SIMULATED: write_shop(chosen.cache / "simulated.jsonl", rows=4_000, items=150, offered=8, favour_sd=0.05),
    }
    opened = Opened(files=files, encoder=chosen.encoder, cache=chosen.cache)
    jobs = jobs_of([part for part in PARTS if part in chosen.parts.split(",")], chosen.orders, chosen.streams)
    try:
        logs = {data: opened.replay(data).log for data in {job.data for job in jobs}}  # embedded before any child
    except SettingsError as error:
        sys.exit(f"--data {error}")
    done = []
    with ProcessPoolExecutor(chosen.jobs, get_context("spawn"), _open, (opened,)) as pool:
        for future in as_completed([pool.submit(_run, job) for job in jobs]):
            job, found = future.result()
            done.append((job, found))
            told = f"{found.agreement:.4f} in {found.seconds:.0f} s" if isinstance(found, Run) else found
            name = f"{job.data} {job.way} {job.budget} order {job.order}"
            print(f"{len(done)}/{len(jobs)} {name}: {told}", file=sys.stderr, flush=True)  # noqa: T201 - progress
    streams = [found for _, found in done if isinstance(found, Stream)]
    covered = [found for _, found in done if isinstance(found, dict)]
    result = {
        "agreement": report(done),
        "coverage": _means(covered),
        "promise": summary(streams) if streams else {},
        "teacher_with_itself": {data: teacher_itself(log) for data, log in logs.items()},
        "orders": chosen.orders,
        "wall_s": round(time.monotonic() - started_s, 1),
    }
    if not chosen.json:
        print(json.dumps(result, indent=1))  # noqa: T201 - a benchmark reports
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main()
