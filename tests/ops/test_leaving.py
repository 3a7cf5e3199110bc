"""A daemon of ours leaves at once with the code it has, whatever its threads are doing; a caller of ours does not."""

import signal
import subprocess
import sys

import pytest

from ops.processes.leaving import is_a_daemon
from ops.processes.signals import listen
from tests.ops.children import REPOSITORY

BUSY = """
import sys, threading, time
from ops.processes.leaving import is_a_daemon, leaving_at_once
with leaving_at_once():
    is_a_daemon()
    threading.Thread(target=time.sleep, args=(600,)).start()  # the interpreter would wait for it
    sys.stdout.write("said")
    {end}
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(4)", 4, ""),
        ("sys.exit()", 0, ""),
        ("raise ValueError('unforeseen')", 1, "unforeseen"),
    ],
)
def test_a_thread_that_works_on_holds_no_daemon_back_and_changes_no_exit_code(end: str, code: int, said: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", BUSY.replace("{end}", end)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (code, "said")
    assert said in ran.stderr


def test_who_calls_into_us_keeps_its_own_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    is_a_daemon()
    with listen():
        pass
    assert signal.getsignal(signal.SIGTERM) == before
