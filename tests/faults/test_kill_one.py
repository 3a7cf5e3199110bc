"""One kill of each process under traffic, through the same command that anybody can run with other seeds."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ops.children import REPOSITORY, until

_LIMIT_S = 280.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the command may put things; its path is short, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="k-") as name:
        yield Path(name)


def start(folder: Path, process: str, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.kill_one", "--process", process, "--seed", str(seed), "--json"]
    return subprocess.Popen(
        ["env", f"TMPDIR={folder}", *command],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(run: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """The exit code, and the JSON object that comes last."""
    try:
        output, errors = run.communicate(timeout=_LIMIT_S)
    finally:
        run.kill()
    assert output, errors
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    return run.returncode, report


def working_in(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.parametrize(
    ("process", "seed"),
    [
        pytest.param("serve", 1),
        pytest.param("ingest", 2, marks=pytest.mark.long),
        pytest.param("train", 3, marks=pytest.mark.long),
    ],
)
def test_nothing_accepted_is_lost_or_counted_twice_and_the_champion_serves_on(
    folder: Path, process: str, seed: int
) -> None:
    code, report = finish(start(folder, process, seed))
    assert code == 0, report
    assert report["ok"] is True
    assert report["process"] == process
    assert report["signal"] == "SIGKILL"
    assert report["killed_pid"] != report["restarted_pid"]
    assert report["accepted"] > 20, "too little was accepted for the count to mean anything"
    assert report["failed_requests"] == 0
    assert report["log"]["events"] == report["buffer"]["counted"]
    assert report["verify"]["ok"] is True
    assert report["verify"]["missing"] == report["verify"]["extra"] == []
    assert report["champion_after"] is not None
    if process != "train":
        assert report["champion_after"] == report["champion_before"]
    assert list(folder.iterdir()) == []
    assert working_in(folder) == []


def test_ctrl_c_leaves_nothing_behind(folder: Path) -> None:
    run = start(folder, "serve", 1)
    until(lambda: any(b"child_started" in log.read_bytes() for log in folder.glob("*/all.log")), seconds=90)
    run.send_signal(signal.SIGINT)
    code, report = finish(run)
    assert code == 1
    assert report["ok"] is False
    assert report["problems"] == ["Stopped: SIGINT"]
    assert list(folder.iterdir()) == []
    assert working_in(folder) == []
