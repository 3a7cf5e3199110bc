"""Runs in processes of their own: each ask once, a failure costs its own run, and nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from ops.backtest.records import Ask
from ops.backtest.runs.pool import Pool, PoolResult, in_order
from ops.backtest.runs.work import Done, ReplaySource, work_on
from ops.show.progress import Board
from tests.ops.children import REPOSITORY, gone, lines, pids, until
from tests.ops.fake_replay import made_log

ENTRY = "tests.ops.fake_replay:FakeReplay"
ASKS = [Ask(budget=budget, seed=seed) for budget in (50, 100) for seed in (1, 2)]
PROGRAM = """
import json, sys
from pathlib import Path
from ops.backtest.runs.pool import Pool
from ops.backtest.runs.work import ReplaySource
from ops.backtest.records import Ask
from tests.ops.fake_replay import made_log
folder, slow_s, seeds = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
log = made_log(folder)
options = {"slow_s": slow_s, "notes": str(folder / "notes")}
source = ReplaySource(entry="tests.ops.fake_replay:FakeReplay", arguments=(log,), options=options)
if __name__ == "__main__":
    done = []
    asks = [Ask(budget=50, seed=seed + 1) for seed in range(seeds)]
    found = Pool(source, jobs=2, rows=log.rows).run(asks, done.append, lambda board: None)
    print(json.dumps([found.interrupted, len(found.missing), [one.run.ask.seed for one in done]]))
"""


def run(
    folder: Path, asks: list[Ask] = ASKS, jobs: int = 2, **options: Any
) -> tuple[PoolResult, list[Done], list[Board]]:
    log, done, boards = made_log(folder), list[Done](), list[Board]()
    source = ReplaySource(entry=ENTRY, arguments=(log,), options={"notes": str(folder / "notes"), **options})
    return Pool(source, jobs=jobs, rows=log.rows).run(asks, done.append, boards.append), done, boards


def begun(folder: Path) -> Counter[str]:
    return Counter(line for line in lines(folder / "notes") if line.startswith("begins"))


def test_seed_0_of_every_budget_comes_first() -> None:
    asks = [Ask(budget=budget, seed=seed) for budget in (50, 100) for seed in (0, 1)]
    assert [(ask.budget, ask.seed) for ask in in_order(asks)] == [(100, 0), (50, 0), (100, 1), (50, 1)]


def test_every_ask_is_run_once_by_as_many_workers_as_there_may_be(tmp_path: Path) -> None:
    outcome, done, boards = run(tmp_path)
    assert (outcome.failed, outcome.missing, outcome.interrupted) == ([], [], False)
    assert {one.run.ask for one in done} == set(ASKS)
    assert begun(tmp_path) == {f"begins {ask.budget} {ask.seed}": 1 for ask in ASKS}
    workers = pids(tmp_path / "notes", "worker")
    assert len(workers) == 2
    assert os.getpid() not in workers
    until(lambda: all(gone(pid) for pid in workers))
    assert [one.rows for one in boards if one.phase == "replaying"] == sorted(
        one.rows for one in boards if one.phase == "replaying"
    )
    assert (boards[-1].rows, boards[-1].total) == (4000, 4000)


def test_seed_0_also_tells_which_topics_stayed_hard(tmp_path: Path) -> None:
    assert work_on(ReplaySource(entry=ENTRY, arguments=(made_log(tmp_path),), options={}), lambda *_: None) is None
    for seed in (0, 1):
        done = work_on(Ask(budget=50, seed=seed), lambda *_: None)
        assert isinstance(done, Done)
        assert bool(done.topics) == (seed == 0)


def test_embedding_is_told_in_rows_however_many_texts_a_row_has(tmp_path: Path) -> None:
    log, told = made_log(tmp_path), list[tuple[Any, ...]]()
    assert work_on(ReplaySource(entry=ENTRY, arguments=(log,), options={}), lambda *said: told.append(said)) is None
    assert told == [("rows", log.rows // 2), ("rows", log.rows)]


def test_no_more_workers_start_than_there_are_runs(tmp_path: Path) -> None:
    run(tmp_path, ASKS[:1])
    assert len(pids(tmp_path / "notes", "worker")) == 1


def test_a_run_that_raises_costs_itself_alone_and_is_told_with_its_error(tmp_path: Path) -> None:
    outcome, done, _ = run(tmp_path, jobs=1, raises=(100, 1))
    assert outcome.missing == [Ask(budget=100, seed=1)]
    assert [failure.ask for failure in outcome.failed] == outcome.missing
    assert "RuntimeError: a label that nobody knows" in outcome.failed[0].why
    assert len(done) == 3
    assert len(pids(tmp_path / "notes", "worker")) == 1


@pytest.mark.parametrize("dies", [(50, 1), (100, 2)], ids=["the first", "the last"])
def test_a_worker_that_dies_costs_its_own_run_and_is_replaced(dies: tuple[int, int], tmp_path: Path) -> None:
    outcome, done, _ = run(tmp_path, dies=dies)
    lost = Ask(budget=dies[0], seed=dies[1])
    assert outcome.missing == [lost]
    assert [(one.ask, one.why) for one in outcome.failed] == [(lost, "the process died (exit code 9)")]
    assert {one.run.ask for one in done} == set(ASKS) - {lost}


def test_the_only_worker_may_die_and_still_every_other_run_is_tried(tmp_path: Path) -> None:
    outcome, done, _ = run(tmp_path, ASKS[:2], jobs=1, dies=(50, 1))
    assert outcome.missing == ASKS[:1]
    assert [one.run.ask for one in done] == ASKS[1:2]


def test_a_log_that_cannot_be_opened_ends_it_with_the_message_alone(tmp_path: Path) -> None:
    outcome, done, _ = run(tmp_path, unreadable=True)
    assert done == []
    assert outcome.missing == ASKS
    assert [(one.ask, one.why) for one in outcome.failed] == [(None, "the encoder's folder holds no encoder")]
    assert begun(tmp_path) == {}


def started(folder: Path, slow_s: float, seeds: int) -> subprocess.Popen[bytes]:
    """The program in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(slow_s), str(seeds)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_pool_that_is_stopped_keeps_what_was_finished_and_leaves_no_process(
    sent: signal.Signals, tmp_path: Path
) -> None:
    process = started(tmp_path, 1.5, 40)
    until(lambda: len(begun(tmp_path)) >= 4, seconds=90)
    family = psutil.Process(process.pid).children(recursive=True)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does: to everyone
    else:
        process.send_signal(sent)
    output, errors = process.communicate(timeout=20)
    interrupted, missing, done = json.loads(output)
    assert interrupted
    assert len(done) >= 2
    assert missing == 40 - len(done)
    assert process.returncode == 0
    assert errors == b""
    until(lambda: all(gone(child.pid) for child in family), seconds=5)


def test_no_worker_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    with started(tmp_path, 600.0, 4) as process:
        until(lambda: len(begun(tmp_path)) >= 2, seconds=90)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()  # not for the end of its pipes: they are open for as long as a worker lives
        assert len(family) >= 2
        until(lambda: all(gone(child.pid) for child in family), seconds=5)
