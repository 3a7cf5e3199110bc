"""The warm child process."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from store.errors import StoreUnavailableError
from trainer.worker import Worker, WorkerDiedError, WorkerStoppedError, WorkerTimeoutError, WorkFailedError

ENTRY = "tests.trainer.worked:answer"


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(ENTRY)
    yield worker
    worker.close()


def run(worker: Worker, work: str, *, timeout_s: float = 30.0, stop: threading.Event | None = None) -> tuple[str, int]:
    answer: tuple[str, int] = worker.run(work, timeout_s=timeout_s, stop=stop or threading.Event(), tick=lambda: None)
    return answer


def test_the_child_stays_warm_from_one_work_to_the_next(worker: Worker) -> None:
    one, two = run(worker, "a"), run(worker, "b")
    assert one == ("a", worker.pid)
    assert two == ("b", worker.pid)
    assert worker.pid != os.getpid()


def test_what_the_work_says_of_itself_arrives_before_its_answer(worker: Worker) -> None:
    said = list[tuple[object, ...]]()
    answer = worker.run(
        "tell", timeout_s=60.0, stop=threading.Event(), tick=lambda: None, told=lambda *what: said.append(what)
    )
    assert answer[0] == "tell"
    assert said == [("reading", None), ("fitting", 0.1), ("judging", None)]  # the second of a kind came too soon


def test_a_child_that_was_warmed_does_the_first_work(worker: Worker) -> None:
    worker.warm()
    pid = worker.pid
    assert pid is not None
    assert run(worker, "a") == ("a", pid)


def test_a_crash_in_the_child_is_an_error_here_and_the_next_work_runs(worker: Worker) -> None:
    with pytest.raises(WorkerDiedError, match="-9"):
        run(worker, "crash")
    assert run(worker, "again")[0] == "again"


def test_an_exception_in_the_child_arrives_with_its_traceback_and_leaves_it_warm(worker: Worker) -> None:
    _, pid = run(worker, "a")
    with pytest.raises(WorkFailedError) as caught:
        run(worker, "raise")
    assert str(caught.value) == "ValueError: a fit went wrong"
    assert caught.value.traceback.rstrip().endswith("ValueError: a fit went wrong")
    with pytest.raises(StoreUnavailableError, match="Connection refused"):
        run(worker, "away")
    assert run(worker, "b")[1] == pid


def test_work_that_takes_too_long_is_ended(worker: Worker) -> None:
    run(worker, "warm up")
    with pytest.raises(WorkerTimeoutError):
        run(worker, "sleep", timeout_s=0.5)
    assert worker.pid is None
    assert run(worker, "again")[0] == "again"


def test_a_daemon_that_stops_does_not_wait_for_its_cycle(worker: Worker) -> None:
    run(worker, "warm up")
    stop = threading.Event()
    stop.set()
    with pytest.raises(WorkerStoppedError):
        run(worker, "sleep", stop=stop)
    assert worker.pid is None


def test_a_lost_lease_ends_the_work(worker: Worker) -> None:
    def tick() -> None:
        message = "lease lost"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="lease lost"):
        worker.run("sleep", timeout_s=30.0, stop=threading.Event(), tick=tick)
    assert worker.pid is None


def test_the_child_does_not_outlive_a_killed_daemon() -> None:
    program = (
        "import threading\n"
        "from trainer.worker import Worker\n"
        "if __name__ == '__main__':\n"
        f"    worker = Worker('{ENTRY}')\n"
        "    worker.run('a', timeout_s=30, stop=threading.Event(), tick=lambda: None)\n"
        "    print(worker.pid, flush=True)\n"
        "    worker.run('sleep', timeout_s=60, stop=threading.Event(), tick=lambda: None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        child = psutil.Process(int(daemon.stdout.readline()))
        daemon.kill()
        daemon.wait()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
