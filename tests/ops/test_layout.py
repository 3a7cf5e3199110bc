"""Folders stay small, imports come from this tree, and nothing in it names a machine or a registry."""

import importlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("store", "stream", "trainer", "serve", "ops")


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_imported_from_this_tree(room: str) -> None:
    found = importlib.import_module(room).__file__
    assert found is not None
    assert Path(found).parent == ROOT / room


@pytest.mark.parametrize("room", ROOMS)
def test_a_folder_holds_at_most_ten_files(room: str) -> None:
    for folder in {ROOT / room, *(path.parent for path in (ROOT / room).rglob("*.py"))}:
        names = [path.name for path in folder.iterdir() if path.suffix == ".py" and path.name[:2] != "__"]
        assert len(names) <= 10, f"{folder.relative_to(ROOT)} has {len(names)} files: give it inner rooms"


def test_no_package_index_and_no_machine_is_named_anywhere() -> None:
    hosts = [
        "pypi" + ".org",
        "pythonhosted" + ".org",
        "repo.maven" + ".apache",
        "repo1.maven" + ".org",
        "npmjs" + ".org",
    ]
    paths = ["/ro" + "ot/", "/wo" + "rk/", "/ho" + "me/"]
    for name in tracked():
        try:
            text = (ROOT / name).read_text("utf-8")
        except UnicodeDecodeError:
            continue
        found = [mark for mark in (*hosts, *paths) if mark in text]
        assert not found, f"{name} names {found}"


def test_the_constraints_pin_every_package_and_hold_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[^ ]+( ; .+)?", line), line
