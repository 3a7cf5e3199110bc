"""The learning benchmark's JSON, from runs that cost nothing: the keys that others read, and the figures in them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ops.backtest.log import Log
from ops.backtest.records import Run
from tests.bench.learning import PARTS, Job, interval, jobs_of, report
from tests.bench.variants import BASELINES
from tests.ops.fake_replay import made_log, replayed

BUDGETS = (100, 200)
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return made_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def done(log: Log) -> list[tuple[Job, Run]]:
    jobs = jobs_of(
        log.rows,
        BUDGETS,
        seeds=len(SEEDS),
        metric="accuracy",
        parts=PARTS,
        baseline_seeds=1,
        ablation=None,
        fine_tune=False,
    )
    runs = [replayed(log, job.ask)[0] for job in jobs]
    told = [replace(run, student_accuracy=run.ask.seed / 10, paid_accuracy=None) for run in runs]
    first = replace(told[0], encoder_parameters=0)  # no version of it came to serve
    return list(zip(jobs, [first, *told[1:]], strict=True))


@pytest.fixture(scope="module")
def found(log: Log, done: list[tuple[Job, Run]]) -> dict[str, Any]:
    return report(log.path, log, "accuracy", BUDGETS, done)


def test_the_keys_that_others_read_are_there(found: dict[str, Any], log: Log) -> None:
    assert (found["data"], found["rows"], found["metric"]) == ("log.jsonl", log.rows, "accuracy")
    assert found["encoder_parameters"] == 22_700_000
    assert found["served_parameters"] == 22_700_000
    assert found["baselines"].keys() == BASELINES.keys()
    assert [one["budget"] for one in found["budgets"]] == [*BUDGETS]
    for one in found["budgets"]:
        assert all(len(one[name]) == len(SEEDS) for name in ("calls", "accuracy", "seconds"))
        assert all(calls <= one["budget"] for calls in one["calls"])
        assert one["low"] < one["mean"] < one["high"]
        assert one["student_accuracy"] == 20.0
        assert one["paid_accuracy"] is None


def test_a_budget_is_the_mean_of_its_orders_and_the_files_own_order_stands_beside_it(
    found: dict[str, Any], log: Log, done: list[tuple[Job, Run]]
) -> None:
    one = found["budgets"][1]
    scores = [100 * (run.score or 0) for job, run in done if job.kind == "budget" and job.ask.budget == BUDGETS[1]]
    assert one["accuracy"] == [round(score, 2) for score in scores]
    assert one["mean"] == pytest.approx(sum(scores) / len(SEEDS), abs=0.006)
    own = [run for job, run in done if job.kind == "file_order" and job.ask.budget == BUDGETS[1]]
    assert [run.ask.seed for run in own] == [0]
    assert one["file_order"] == round(100 * (own[0].score or 0), 2)


def test_the_curve_is_one_order_from_the_smallest_budget_to_the_largest(found: dict[str, Any], log: Log) -> None:
    budgets = [one["budget"] for one in found["curve"]]
    assert budgets == sorted(set(budgets))
    assert {*BUDGETS} < {*budgets}
    assert budgets[0] == 0.05 * log.rows
    assert [one["budget"] for one in found["baselines"]["one_off_training"]] == budgets


def test_an_interval_is_students() -> None:
    assert interval([1.0, 2.0, 3.0]) == {"mean": 2.0, "low": -0.48, "high": 4.48}
    assert interval([1.0]) == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_data_that_is_not_there_is_said_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.learning", "--data", str(tmp_path / "none.jsonl")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 1
    assert "none.jsonl" in ended.stderr
    assert "Traceback" not in ended.stderr
