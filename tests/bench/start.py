"""What the start of the command line takes: `python -m tests.bench.start [--runs N] [--json]`.

CPU time of `--help`, of `status` without a Redis, of an `import` that refuses a file, and of the libraries alone that
`status` imports: each as so many times that of `python -c pass`. They take turns, and the least of each counts, since
other work on the machine can only add to it. Prints one JSON object as its last line.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ops.exits import BAD_SETTINGS, UNAVAILABLE
from ops.init import init

Command = tuple[int, *tuple[str, ...]]  # the exit code that it must have, and what Python is given

RUNS: Final = 7
REPOSITORY: Final = Path(__file__).parents[2]


def measure(folder: Path, *, runs: int = RUNS) -> dict[str, Any]:
    """Start every command so often; CPU-seconds of the bare interpreter, and of all as a multiple of it."""
    init(folder)
    wrong = folder / "answers.parquet"
    wrong.write_bytes(b"PAR1" + bytes(64))
    settings = str(folder / "understudy.toml")
    commands: dict[str, Command] = {
        "pass": (0, "-c", "pass"),
        "help": (0, "-m", "ops.cli", "--help"),
        "status": (UNAVAILABLE, "-m", "ops.cli", "status", "-c", settings),
        "wrong_file": (BAD_SETTINGS, "-m", "ops.cli", "import", str(wrong), "-c", settings),
        "import_typer": (0, "-c", "import typer"),
        "import_pydantic": (0, "-c", "from pydantic import BaseModel, Field"),
        "import_redis": (0, "-c", "import redis"),
    }
    least = _least(commands, runs)
    bare = least.pop("pass")
    return {"pass_cpu_s": round(bare, 4), **{name: round(value / bare, 1) for name, value in least.items()}}


def _least(commands: Mapping[str, Command], runs: int) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, (code, *arguments) in commands.items():
            found[name].append(_cpu_s(arguments, code))
    return {name: min(taken) for name, taken in found.items()}


def _cpu_s(arguments: Sequence[str], code: int) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != code:
        message = f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
        raise RuntimeError(message)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU that the start of the command line takes")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), runs=options.runs)
    if not options.json:
        for name, value in found.items():
            sys.stdout.write(f"{name:16} {value}\n")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
