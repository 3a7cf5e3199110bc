"""Who may not install is told exactly what to; a machine that lacks nothing is told nothing."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "setup-services"
BROWSER = {"chromium", "chromium-driver"}
SERVERS = {"redis-server", "prometheus", "prometheus-alertmanager", "systemd", "default-jre-headless", "maven", "curl"}


def run(folder: Path, *arguments: str, programs: tuple[str, ...] = (), **variables: str) -> tuple[int, set[str]]:
    """How it ends for somebody who is not root on a machine with these programs alone; the packages that it names."""
    for name, script in {"id": "echo 1000", **dict.fromkeys(programs, "")}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": str(folder), **variables}
    command = ["/bin/bash", str(SCRIPT), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    named = done.stderr.partition("--no-install-recommends ")[2].partition("\n")[0]
    return done.returncode, set(named.split())


def test_the_browser_is_named_for_the_long_tests_alone(tmp_path: Path) -> None:
    assert run(tmp_path) == (0, SERVERS)
    assert run(tmp_path, "long") == (0, SERVERS | BROWSER)


def test_in_ci_what_is_missing_is_a_failure(tmp_path: Path) -> None:
    assert run(tmp_path, "long", programs=("chromium",), CI="true") == (1, SERVERS | {"chromium-driver"})


@pytest.mark.parametrize("ci", ["", "true"])
def test_nothing_is_asked_for_that_is_there(tmp_path: Path, ci: str) -> None:
    there = ("redis-server", "promtool", "amtool", "systemd-analyze", "java", "mvn", "curl", "chromium", "chromedriver")
    assert run(tmp_path, "long", programs=there, CI=ci) == (0, set())
