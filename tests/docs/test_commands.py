"""Every command line that a page shows is one that the real command line takes; those of the quick start are run."""

import subprocess
from pathlib import Path

import pytest

from tests.docs.covered import PLAYED
from tests.docs.lines import ours_in, refusal_of
from tests.docs.newcomer import shell_variables
from tests.docs.pages import PAGES, ROOT, Session, code_of, sessions_of, typed_in

RUN = [page for page in PAGES if sessions_of(page) and page not in PLAYED]


def test_every_command_line_is_taken() -> None:
    lines = {(page, line): words for page in PAGES for line in typed_in(page) if (words := ours_in(line)) is not None}
    assert {line: why for line, words in lines.items() if (why := refusal_of(words)) is not None} == {}


def test_every_command_in_the_text_that_has_options_is_taken() -> None:
    shown = {
        (page, code): words
        for page in PAGES
        for code in code_of(page)
        if "--" in code and "[" not in code and (words := ours_in(code)) is not None
    }
    assert len(shown) > 30
    assert {code: why for code, words in shown.items() if (why := refusal_of(words)) is not None} == {}


def test_wrong_command_lines_are_told() -> None:
    assert ours_in("UNDERSTUDY_STATE_DIR=a .venv/bin/understudy run serve  # now") == ["run", "serve"]
    assert ours_in("make demo") is None
    assert refusal_of(["run", "serve"]) is None
    assert refusal_of(["status", "-o", "json"]) is None
    assert refusal_of(["status", "-o", "yaml"]) is not None
    assert refusal_of(["history", "--limit", "few"]) is not None
    assert refusal_of(["history", "--jump"]) is not None
    assert refusal_of(["show"]) is not None
    assert refusal_of(["status", "one-too-many"]) is not None
    assert refusal_of(["run"]) == "a command is missing"
    assert refusal_of(["jump"]) == "no command jump"


def test_enough_is_shown_and_run() -> None:
    assert len([line for page in PAGES for line in typed_in(page) if ours_in(line) is not None]) > 60
    assert {"README.md", "docs/tutorials/rank.md"} <= set(RUN)


@pytest.mark.parametrize("page", RUN)
def test_the_blocks_that_are_marked_run_as_they_stand(page: str, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    for session in sessions_of(page):
        done = run(session, tmp_path)
        assert done.returncode == session.code, session.script + done.stdout + done.stderr


def run(session: Session, folder: Path) -> subprocess.CompletedProcess[str]:
    """A block in a shell whose folder is empty at first, with this tree's own command on the path."""
    return subprocess.run(
        ["bash", "-ec", session.script],
        cwd=folder,
        env=shell_variables(),
        capture_output=True,
        text=True,
        check=False,
    )
