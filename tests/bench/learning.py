"""Accuracy against teacher calls: `python -m tests.bench.learning --data FILE --budgets 1200,1500,2700 --json`.

The stream is replayed by the backtest: the service's own gateway, budget, buffer, trainer and gate. Nothing looks
ahead, the true labels (`gold`) only score, and the teacher's are seen where a call was paid for. Seeds are shuffled
orders of the rows; the file's own order stands beside them. The stream's length is given, as in the published work;
`forecast` has the same with a length that is guessed a fifth too short and a fifth too long. Prints one JSON object as
its last line.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import stats

from ops.backtest.log import Log
from ops.backtest.records import Ask, Run
from ops.backtest.replay import DEFAULT_SCHEDULE, Replay
from ops.backtest.tasks.texts import ColumnNames, read_log
from store.errors import SettingsError
from tests.bench.novelty import novelty_auroc
from tests.bench.variants import BASELINES, OURS, Variant, ablations, swapped

DATA: Final = Path(__file__).parents[3] / "shared" / "data" / "isear.jsonl"
PARTS: Final = ("budget", "file_order", "curve", "baselines", "forecast")
_CURVE: Final = (0.05, 0.1, 0.2, 0.3, 0.45, 0.7)  # of the rows
_NO_SCORE: Final = "the data has no column gold: the benchmark has nothing to score with"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run in a child."""

    kind: str  # "budget", "file_order", "curve", "forecast" or the name of a variant
    ask: Ask


_replay: Replay | None = None


def _open(data: Path, encoder: str, cache: Path) -> None:
    global _replay  # noqa: PLW0603 - one in a child
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _replay = Replay(read_log(data, ColumnNames(), 1.0), encoder=encoder, cache=cache)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _variant(kind: str) -> Variant:
    return {**BASELINES, **ablations()}.get(kind, OURS)


def _run(job: Job) -> tuple[Job, Run]:
    if _replay is None:
        message = "the child was not opened"
        raise RuntimeError(message)
    variant = _variant(job.kind)
    ask = variant.ask(job.ask)
    _replay.schedule = variant.schedule(DEFAULT_SCHEDULE, ask)
    with swapped(variant.parts):
        return job, _replay.run(ask, lambda _done, _rows: None)[0]


def jobs_of(
    rows: int,
    budgets: Sequence[int],
    *,
    seeds: int,
    metric: str,
    parts: Sequence[str],
    baseline_seeds: int,
    ablation: int | None,
    fine_tune: bool,
) -> list[Job]:
    """Every run, the ones that matter most first."""

    def ask(budget: int, seed: int, horizon: float = 1.0) -> Ask:
        return Ask(
            budget=budget,
            seed=seed,
            shuffled=True,
            metric=metric,  # type: ignore[arg-type]
            fine_tune=fine_tune,
            horizon_ratio=horizon,
        )

    if ablation is not None:
        names = ["budget", *ablations()]
        return [Job(kind=name, ask=ask(ablation, seed)) for seed in range(1, seeds + 1) for name in names]
    shares = sorted({*budgets, *(round(share * rows) for share in _CURVE)})
    every = {
        "budget": [Job(kind="budget", ask=ask(budget, seed)) for seed in range(1, seeds + 1) for budget in budgets],
        "file_order": [Job(kind="file_order", ask=ask(budget, 0)) for budget in budgets],
        "curve": [Job(kind="curve", ask=ask(budget, 1)) for budget in shares],
        "baselines": [
            Job(kind=name, ask=ask(budget, seed))
            for seed in range(1, baseline_seeds + 1)
            for name in BASELINES
            for budget in (shares if "curve" in parts else budgets)
        ],
        "forecast": [Job(kind="forecast", ask=ask(budget, 1, ratio)) for budget in budgets for ratio in (0.8, 1.2)],
    }
    if "budget" in parts:  # its first order is a part of the curve
        every["curve"] = [job for job in every["curve"] if job.ask.budget not in budgets]
    return [job for part in parts for job in every[part]]


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean with Student's 95 % interval over the orders."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else 0.0
    return {"mean": round(mean, 2), "low": round(mean - half, 2), "high": round(mean + half, 2)}


def report(
    data: Path, log: Log, metric: str, budgets: Sequence[int], done: Sequence[tuple[Job, Run]]
) -> dict[str, Any]:
    """The benchmark's JSON."""
    ours = [run for job, run in done if job.kind == "budget"]
    return {
        "data": data.name,
        "rows": log.rows,
        "encoder_parameters": max(run.encoder_parameters for _, run in done),
        "served_parameters": max(run.served_parameters for _, run in done),
        "metric": metric,
        "budgets": [_budget(budget, done) for budget in budgets] if ours else [],
        "curve": [
            {"budget": run.ask.budget, "calls": run.calls, "accuracy": _percent(run.score)}
            for run in sorted(_of(done, "curve") + [run for run in ours if run.ask.seed == 1], key=_by_budget)
        ],
        "baselines": {name: _baseline(name, done) for name in BASELINES if _of(done, name)},
        "forecast": [
            {
                "budget": run.ask.budget,
                "forecast_ratio": run.ask.horizon_ratio,
                "calls": run.calls,
                "unspent": run.unspent,
                "accuracy": _percent(run.score),
            }
            for run in _of(done, "forecast")
        ],
    }


def _budget(budget: int, done: Sequence[tuple[Job, Run]]) -> dict[str, Any]:
    runs = sorted((run for run in _of(done, "budget") if run.ask.budget == budget), key=lambda run: run.ask.seed)
    own = [run for run in _of(done, "file_order") if run.ask.budget == budget]
    return {
        "budget": budget,
        "calls": [run.calls for run in runs],
        "calls_ratio": [round(run.calls / run.rows, 4) for run in runs],
        "unspent": [run.unspent for run in runs],
        "accuracy": [_percent(run.score) for run in runs],
        **interval([100 * (run.score or 0.0) for run in runs]),
        "file_order": _percent(own[0].score) if own else None,
        "student_accuracy": _mean_percent([run.student_accuracy for run in runs]),
        "paid_accuracy": _mean_percent([run.paid_accuracy for run in runs]),
        "system_agreement": _mean_percent([run.agreement for run in runs]),
        "cycles": [[run.head_cycles, run.fine_tune_cycles, run.refused_cycles] for run in runs],
        "seconds": [round(run.seconds, 1) for run in runs],
    }


def _baseline(name: str, done: Sequence[tuple[Job, Run]]) -> list[dict[str, Any]]:
    runs = _of(done, name)
    return [
        {
            "budget": budget,
            "calls": [run.calls for run in runs if run.ask.budget == budget],
            **interval([100 * (run.score or 0.0) for run in runs if run.ask.budget == budget]),
        }
        for budget in sorted({run.ask.budget for run in runs})
    ]


def _ablation(done: Sequence[tuple[Job, Run]]) -> list[dict[str, Any]]:
    """Each variant's mean, and its difference from ours on the same orders."""
    whole = {run.ask.seed: 100 * (run.score or 0.0) for run in _of(done, "budget")}
    table = []
    for kind in dict.fromkeys(job.kind for job, _ in done):
        found = {run.ask.seed: 100 * (run.score or 0.0) for run in _of(done, kind)}
        row: dict[str, Any] = {"variant": kind, "orders": len(found), **interval(list(found.values()))}
        if kind != "budget":
            row["difference"] = interval([found[seed] - whole[seed] for seed in found if seed in whole])
        row["seconds"] = round(float(np.mean([run.seconds for run in _of(done, kind)])), 1)
        table.append(row)
    return table


def _of(done: Sequence[tuple[Job, Run]], kind: str) -> list[Run]:
    return [run for job, run in done if job.kind == kind]


def _by_budget(run: Run) -> int:
    return run.ask.budget


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _mean_percent(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _percent(float(np.mean(known))) if known else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="the learning benchmark: accuracy against teacher calls")
    parser.add_argument("--data", type=Path, default=DATA, help="JSONL with text, teacher.label and gold")
    parser.add_argument("--budgets", default="1200,1500,2700", help="teacher calls")
    parser.add_argument("--seeds", type=int, default=5, help="shuffled orders")
    parser.add_argument("--metric", choices=["accuracy", "balanced_accuracy"], default="accuracy")
    parser.add_argument("--student", default="minilm", help="another encoder's folder")
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"), help="where features are kept")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--baseline-seeds", type=int, default=2, help="orders of the baselines")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of these to run")
    parser.add_argument("--no-fine-tune", action="store_true", help="the head alone: seconds instead of minutes")
    parser.add_argument("--ablation", type=int, metavar="BUDGET", help="the learner without each of its parts instead")
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    chosen = parser.parse_args()
    try:
        log = read_log(chosen.data, ColumnNames(), 1.0)
    except SettingsError as error:
        sys.exit(f"--data {error}")
    if not log.has_gold:
        sys.exit(_NO_SCORE)
    budgets = [int(budget) for budget in chosen.budgets.split(",")]
    jobs = jobs_of(
        log.rows,
        budgets,
        seeds=chosen.seeds,
        metric=chosen.metric,
        parts=[part for part in PARTS if part in chosen.parts.split(",")],
        baseline_seeds=chosen.baseline_seeds,
        ablation=chosen.ablation,
        fine_tune=not chosen.no_fine_tune,
    )
    started_s = time.monotonic()
    replay = Replay(log, encoder=chosen.student, cache=chosen.cache)
    replay.prepare(lambda _done, _rows: None)  # once, before the children read it from the cache
    embedding_s = time.monotonic() - started_s
    done = []
    with ProcessPoolExecutor(
        chosen.jobs,
        mp_context=get_context("spawn"),
        initializer=_open,
        initargs=(chosen.data, chosen.student, chosen.cache),
    ) as pool:
        for future in as_completed([pool.submit(_run, job) for job in jobs]):
            job, run = future.result()
            done.append((job, run))
            print(  # noqa: T201 - progress
                f"{len(done)}/{len(jobs)} {job.kind} budget {job.ask.budget} seed {job.ask.seed}: "
                f"{_percent(run.score)} with {run.calls} calls in {run.seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    found: dict[str, Any]
    if chosen.ablation is not None:
        found = {"data": chosen.data.name, "budget": chosen.ablation, "metric": chosen.metric}
        found |= {"ablation": _ablation(done)}
    else:
        found = report(chosen.data, log, chosen.metric, budgets, done)
        found |= {"novelty_auroc": novelty_auroc(replay)}
    found |= {"embedding_s": round(embedding_s, 1), "wall_s": round(time.monotonic() - started_s, 1)}
    if not chosen.json:
        print(json.dumps(found, indent=1))  # noqa: T201 - a benchmark reports
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
