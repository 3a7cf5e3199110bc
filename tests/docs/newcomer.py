"""Who plays a page from an empty folder: types its blocks in turn, in a shell that keeps its folder and variables."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest

from ops.state.run_files import read_run_file
from tests.docs.pages import ROOT
from tests.ops.children import until

PATIENCE_S: Final = 120.0
_RUN: Final = "understudy run all"
_ADDRESS: Final = "localhost:8080"
_EXPORT: Final = re.compile(r"^export (\w+)=(\S+)$", re.MULTILINE)


def needs(program: str) -> None:
    """See that a program of the machine's is there. Missing: a skip at a desk, a failure in CI."""
    if shutil.which(program) is None:
        assert "CI" not in os.environ, f"{program} is missing: run deploy/setup-services"  # noqa: TID251
        pytest.skip(f"{program} is missing: run deploy/setup-services")


def shell_variables() -> dict[str, str]:
    """The environment of a shell that has this tree's own command on its path, and no settings from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNDERSTUDY_")}  # noqa: TID251
    return kept | {"PATH": f"{ROOT / '.venv' / 'bin'}:{kept['PATH']}", "PYTHONPATH": str(ROOT)}


@dataclass
class Newcomer:
    """One who reads. Of what stands in a page only the gateway's address and `…` are written otherwise."""

    folder: Path  # where the shell is
    variables: dict[str, str] = field(default_factory=shell_variables)
    port: int = 0  # of the gateway, once it runs

    def types(self, block: str) -> subprocess.CompletedProcess[str]:
        """Type a block of a console."""
        script = self._meant(re.sub(r"^\$ ", "", block, flags=re.MULTILINE))
        self.variables |= dict(_EXPORT.findall(script))
        return self._run(["bash", "-ec", f"{script}\npwd >&3"])

    def runs(self, program: str) -> subprocess.CompletedProcess[str]:
        """Run a block of Python."""
        return self._run([sys.executable, "-c", self._meant(program)])

    @contextmanager
    def starts(self, block: str) -> Iterator[None]:
        """Type a block whose last line runs everything in the foreground; ends with it interrupted, as by Ctrl-C."""
        before, run = block.rstrip("\n").rsplit("\n", 1)
        assert run == f"$ {_RUN}", run
        assert self.types(before).returncode == 0
        with (self.folder.parent / "run.log").open("wb") as log:
            started = subprocess.Popen(["understudy", "run", "all"], cwd=self.folder, env=self.variables, stderr=log)
        try:
            until(lambda: self._ready(started), seconds=PATIENCE_S)
            yield
        finally:
            started.send_signal(signal.SIGINT)
            started.wait(PATIENCE_S)
        assert started.returncode in {0, 130}, started.returncode

    def _ready(self, started: subprocess.Popen[bytes]) -> bool:
        assert started.poll() is None, (self.folder.parent / "run.log").read_text("utf-8")
        told = read_run_file(self.folder / "state" / "run", "serve")
        if told is None or told.port is None:
            return False
        self.port = told.port
        return httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == httpx.codes.OK

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        read, write = os.pipe()
        moved = ["bash", "-c", f'exec 3>&{write}; "$@"', "bash", *command]
        done = subprocess.run(
            moved, cwd=self.folder, env=self.variables, pass_fds=[write], capture_output=True, text=True, check=False
        )
        os.close(write)
        with os.fdopen(read) as told:
            if said := told.read().strip():
                self.folder = Path(said)
        return done

    def _meant(self, block: str) -> str:
        return block.replace("…", "a-key").replace(_ADDRESS, f"localhost:{self.port}")
