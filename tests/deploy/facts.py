"""What the code says of its processes, for whoever compares units and manifests with it; and the tools of the tests."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from ops.processes.admin import Probes, admin_server
from ops.processes.run.start import GRACE_S
from ops.sections import AdminSection
from tests.ops.test_named_commands import fault_of

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
PROCESSES: Final = tuple(GRACE_S)
ADMIN_PORTS: Final = {name: getattr(AdminSection(), f"{name}_port") for name in PROCESSES}
KEPT: Final = {name: value for name, value in os.environ.items() if not name.startswith("UNDERSTUDY_")}  # noqa: TID251
_UNITS_S: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def process_of(arguments: Sequence[str]) -> str:
    """Which process a command line of ours starts; it must be one that the command line takes."""
    assert fault_of(shlex.join(arguments)) is None
    assert arguments[0] == "run"
    assert arguments[1] in PROCESSES
    return arguments[1]


def seconds(text: str) -> float:
    """A duration as units and compose files write it."""
    parts = re.findall(r"(\d+)([smh]?)", text)
    assert "".join(f"{number}{unit}" for number, unit in parts) == text
    return sum(int(number) * _UNITS_S[unit] for number, unit in parts)


def documents(text: str) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [one for one in yaml.safe_load_all(text) if one is not None]


def tool(name: str, *arguments: str | Path, **variables: str) -> str:
    """What a tool prints, which must succeed; as `ran`."""
    done = ran(name, *arguments, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ran(name: str, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A tool that has run; one of the tests' own environment, or of the machine.

    Missing: a skip at a desk, a failure in CI, but for kubectl, of which Debian has none that is recent enough.
    """
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{KEPT['PATH']}")
    if found is None:
        assert name == "kubectl" or "CI" not in KEPT, f"{name} is missing: run deploy/setup-services"
        pytest.skip(f"{name} is missing")
    return subprocess.run(
        [found, *map(str, arguments)], capture_output=True, text=True, check=False, env={**KEPT, **variables}
    )


@contextmanager
def admin_answers() -> Iterator[httpx.Client]:
    """A client of a real admin server whose probes all succeed."""
    with (
        admin_server("127.0.0.1", 0, Probes(live=lambda: True, ready=lambda: True)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client
