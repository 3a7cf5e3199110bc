"""Tiny programs that the tests of processes start, signal and kill."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]

NOTE = "import sys, time, signal, os, pathlib\nlog = pathlib.Path(sys.argv[1]); name = sys.argv[2]\n"
"""Every child program begins with it: argv is a file to note things in, and the child's name."""

OBEYS = NOTE + (
    "def end(*_):\n"
    "    with log.open('a') as f: f.write(f'{name} ends\\n')\n"
    "    sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, end)\n"
    "with log.open('a') as f: f.write(f'{name} runs {os.getpid()}\\n')\n"
    "while True: time.sleep(60)\n"
)
STUBBORN = NOTE + (
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "with log.open('a') as f: f.write(f'{name} runs {os.getpid()}\\n')\n"
    "while True: time.sleep(60)\n"
)
CRASHES = NOTE + ("with log.open('a') as f: f.write(f'{name} runs {os.getpid()}\\n')\nsys.exit(int(sys.argv[3]))\n")
HAS_A_CHILD = NOTE + (
    "import subprocess\n"
    "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "with log.open('a') as f: f.write(f'{name} runs {os.getpid()}\\n{name} has {other.pid}\\n')\n"
    "while True: time.sleep(60)\n"
)
HEARS = NOTE + (
    "from ops.processes.signals import listen\n"
    "def note(what):\n"
    "    with log.open('a') as f: f.write(f'{name} {what}\\n')\n"
    "with listen() as signals:\n"
    "    note(f'runs {os.getpid()}')\n"
    "    signals.on_hangup(lambda: note('hears'))\n"
    "    signals.stop.wait()\n"
    "note('ends')\n"
)
WATCHES = NOTE + (
    "from ops.processes.process import daemon\n"
    "with daemon(name, log.parent, lifeline=int(sys.argv[3]), grace_s=5.0, patience_s=5.0, now_s=time.time()) as d:\n"
    "    d.announce()\n"
    "    with log.open('a') as f: f.write(f'{name} runs {os.getpid()}\\n')\n"
    "    d.stop.wait()\n"
    "with log.open('a') as f: f.write(f'{name} ends\\n')\n"
)


def command(program: str, log: Path, name: str, *more: str) -> tuple[str, ...]:
    """The command line of a child program."""
    return (sys.executable, "-c", program, str(log), name, *more)


def lines(log: Path) -> list[str]:
    """What the children have noted so far."""
    return log.read_text("utf-8").splitlines() if log.exists() else []


def pids(log: Path, name: str) -> list[int]:
    """The pids that a child has noted, the latest last."""
    return [int(line.split()[2]) for line in lines(log) if line.startswith(f"{name} runs ")]


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Poll until the condition holds.

    Raises:
        AssertionError: it did not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def start_supervisor(directory: Path, program: str) -> subprocess.Popen[bytes]:
    """Start a supervisor as a process of its own; `program` says which children it has."""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(directory / "log")], cwd=REPOSITORY, stderr=subprocess.PIPE
    )
