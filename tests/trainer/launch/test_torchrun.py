"""Ranks that torchrun's agent starts: what they come to, what their faults are called, and that none is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.trainer.launch.jobs import STARTED, told
from trainer.launch.rank import OutOfMemoryError
from trainer.launch.torchrun import RankFailedError, launch

pytestmark = pytest.mark.timeout(1800)  # three processes import torch; what is waited for is never seconds

ENTRY = "tests.trainer.launch.jobs:work"


def left() -> list[psutil.Process]:
    """Processes of this one that still run."""
    return [one for one in psutil.Process().children(recursive=True) if one.name() != "resource_tracker"]


def test_ranks_meet_say_how_far_they_are_and_end(tmp_path: Path) -> None:
    told(tmp_path, "nothing")
    seen = list[float]()
    launch(ENTRY, tmp_path, ranks=2, told=seen.append)
    assert {path.name for path in tmp_path.glob("done-*")} == {"done-0", "done-1"}
    assert seen
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("dies", RankFailedError, r"rank 1 of 2 died \(exit code -9\); the others were ended"),
        # Each takes as long; `tests/trainer/chat/test_ranks.py` has a rank that fails and one without memory, too.
        pytest.param("hangs", RankFailedError, "rank 0 of 2 waited for the others in vain", marks=pytest.mark.long),
        pytest.param(
            "raises", RankFailedError, "rank 1 of 2 failed: ValueError: a shape does not fit", marks=pytest.mark.long
        ),
        pytest.param("memory", OutOfMemoryError, "8 rows at once do not fit", marks=pytest.mark.long),
    ],
)
def test_a_rank_that_fails_ends_the_others_and_is_named(
    tmp_path: Path, fault: str, error: type[Exception], said: str
) -> None:
    told(tmp_path, fault)
    before = {one.pid for one in left()}
    with pytest.raises(error, match=said):
        launch(ENTRY, tmp_path, ranks=2)
    pids = [int(path.read_text()) for path in tmp_path.glob(f"{STARTED}-*")]
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert {one.pid for one in left()} <= before
    assert not list(tmp_path.glob("done-*"))


def at_work(one: psutil.Process) -> bool:
    """Whether a process still does anything; one that has ended may wait long for whoever is to ask after it."""
    try:
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], bool], cycle: subprocess.Popen[bytes] | None = None) -> None:
    """Wait for a condition, while a process lives."""
    while not condition():
        assert cycle is None or cycle.poll() is None
        time.sleep(0.05)


CYCLE = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from tests.trainer.launch.test_torchrun import ENTRY
from trainer.launch.torchrun import launch
if __name__ == "__main__":
    launch(ENTRY, Path(sys.argv[1]), ranks=2)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_the_cycle_that_started_it_however_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    program, folder = tmp_path / "cycle.py", tmp_path / "job"
    program.write_text(CYCLE)
    told(folder, "all wait")
    cycle = subprocess.Popen([sys.executable, str(program), str(folder)])
    try:
        until(lambda: len(list(folder.glob(f"{STARTED}-*"))) == 2, cycle)
        ours = psutil.Process(cycle.pid).children(recursive=True)
        assert len(ours) >= 3  # the agent, and two ranks
        trackers = [one for one in ours if "resource_tracker" in "".join(one.cmdline())]
        os.kill(cycle.pid, number)
        cycle.wait()
        if number == signal.SIGTERM:
            assert not [one for one in ours if at_work(one) and one not in trackers]
        until(lambda: not any(map(at_work, ours)))
    finally:
        cycle.kill()
        cycle.wait()
