"""Every `understudy …` that a page, a unit or a message names is one that the command line knows, options included."""

import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from ops.cli.app import app

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "README.md",
        "docs/**/*.md",
        "deploy/**/*.md",
        "deploy/**/*.service",
        "deploy/**/*.yml",
        "ops/**/*.py",
        "s*/**/*.py",
    )
    for path in ROOT.glob(pattern)
)
_ROOT_COMMAND: Final[Any] = typer.main.get_command(app)
_QUOTED: Final = re.compile(r"`understudy (\w[^`]*)`")
_TYPED: Final = re.compile(r"^\s*(?:\$ |ExecStart=|Example: )(?:\S*/)?understudy (.*)$", re.MULTILINE)


def named_in(text: str) -> list[str]:
    """The command lines in a text, without the program's name."""
    unwrapped = re.sub(r"\\?\s*\n\s*(?:#\s*)?", " ", re.sub(r'"\s*\n\s*f?"', "", text))  # strings of one message
    return _QUOTED.findall(unwrapped) + _TYPED.findall(text.replace("\\\n", " "))


def fault_of(line: str) -> str | None:
    """Why the command line would not take a line; None when it would."""
    plain = re.split(r"[|#]", line.replace("[", " ").replace("]", " ").replace("…", "x"))[0]
    try:
        words = shlex.split(plain)
    except ValueError as error:
        return str(error)
    command: Any = _ROOT_COMMAND
    while hasattr(command, "commands") and words:
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {"--help", "-h"} | {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]
    return f"no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_exists(page: str) -> None:
    faults = {line: fault for line in named_in((ROOT / page).read_text("utf-8")) if (fault := fault_of(line))}
    assert faults == {}


def test_the_commands_are_found_and_wrong_ones_are_told() -> None:
    text = 'see `understudy verify\n  -o json`, or\n$ .venv/bin/understudy ingest skip --reason "a b"   # now\n'
    assert named_in(text) == ["verify -o json", 'ingest skip --reason "a b"   # now']
    assert [fault_of(line) for line in named_in(text)] == [None, None]
    assert fault_of("ingest jump") == "no command jump"
    assert fault_of("verify --force") == "no option --force"
    assert len([line for page in PAGES for line in named_in((ROOT / page).read_text("utf-8"))]) > 50
