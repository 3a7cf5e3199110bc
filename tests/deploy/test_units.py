"""The units: systemd reads them, little is exposed, and they stop, reload and restart what the processes really do."""

import re
import signal
import subprocess
from pathlib import Path
from typing import Final

import pytest

from ops.exits import BAD_SETTINGS
from ops.processes.limits import _MOST_FILES
from ops.processes.run.start import GRACE_S
from ops.processes.signals import _STOP
from tests.deploy.facts import DEPLOY, PROCESSES, process_of, tool

UNITS: Final = [DEPLOY / "systemd" / f"understudy-{name}.service" for name in PROCESSES]
MOST_EXPOSED: Final = 1.5  # of 10, as `systemd-analyze security` counts; systemd calls 2 and less "OK"
NEWER: Final = ("RestartSteps", "RestartMaxDelaySec")  # of systemd 254; an older one leaves them out, and says so


def settings_of(unit: Path) -> dict[str, list[str]]:
    """Each key of a unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"(?m)^(\w+)=(.*)$", unit.read_text("utf-8")):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_reads_the_unit_and_knows_every_key(unit: Path, tmp_path: Path) -> None:
    tool("systemd-analyze", "--version")
    installed = tmp_path / unit.name
    installed.write_text(unit.read_text("utf-8").replace("/opt/understudy/.venv/bin/understudy", "/bin/true"), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(installed)], capture_output=True, text=True, check=False, timeout=60
    )
    faults = [line for line in done.stderr.splitlines() if unit.name in line and not any(key in line for key in NEWER)]
    assert faults == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_little_is_exposed(unit: Path) -> None:
    said = tool("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found is not None
    assert float(found[1]) <= MOST_EXPOSED


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_does_what_its_process_needs(unit: Path) -> None:
    said = {key: values[-1] for key, values in settings_of(unit).items()}
    name = process_of(said["ExecStart"].split()[1:])
    assert unit.stem == f"understudy-{name}"
    assert f"grace ({GRACE_S[name]:.0f} s)" in unit.read_text("utf-8")
    assert float(said["TimeoutStopSec"]) > GRACE_S[name]
    assert getattr(signal, said["KillSignal"]) in _STOP
    assert said["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert said["RestartForceExitStatus"] == "SIGHUP"
    assert (said["Restart"], int(said["RestartPreventExitStatus"])) == ("on-failure", BAD_SETTINGS)
    assert int(said["LimitNOFILE"]) == _MOST_FILES
    assert said["ReadWritePaths"] == said["WorkingDirectory"] == f"/var/lib/{said['StateDirectory']}"
    assert (said["User"], said["UMask"], said["StateDirectoryMode"]) == ("understudy", "0077", "0700")


def test_the_units_differ_in_their_process_and_its_devices_alone() -> None:
    own = {"Description", "ExecStart", "PrivateDevices", "DevicePolicy", "DeviceAllow", "OOMScoreAdjust"}
    shared = [{key: values for key, values in settings_of(unit).items() if key not in own} for unit in UNITS]
    assert shared[0] == shared[1] == shared[2]
