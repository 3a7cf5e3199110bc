"""Command lines as pages show them, put to the real command line without being run."""

import re
import shlex
from pathlib import Path
from typing import Any, Final

import typer

from ops.cli.app import app

_ROOT_COMMAND: Final[Any] = typer.main.get_command(app)
_PLACEHOLDERS: Final = {"…": "x", "ITEM": "3fa1", "LETTER": "1a2b", "NUMBER": "3", "VERSION": "3f2a9c"}
_REDIRECTIONS: Final = re.compile(r"\s+(?:[|<>&;]|#\s).*$")
_ASSIGNMENTS: Final = re.compile(r"^(?:[A-Z_]+=\S+\s+)+")


def ours_in(line: str) -> list[str] | None:
    """The words after `understudy` where a typed line starts that program; else None."""
    plain = _ASSIGNMENTS.sub("", _REDIRECTIONS.sub("", line))
    for placeholder, value in _PLACEHOLDERS.items():
        plain = plain.replace(placeholder, value)
    words = shlex.split(plain)
    return words[1:] if words and Path(words[0]).name == "understudy" else None


def refusal_of(words: list[str]) -> str | None:
    """Why the command line would not take these words as a whole command: names, options, values, arguments."""
    command, rest = _ROOT_COMMAND, words
    while hasattr(command, "commands") and rest:
        if rest[0] not in command.commands:
            return None if rest[0] in {"--help", "--version"} else f"no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    if hasattr(command, "commands"):
        return "a command is missing"
    try:
        command.make_context(command.name, list(rest))
    except typer.Exit:
        return None
    except Exception as error:  # noqa: BLE001 - whatever it says of the words is what is to be told
        return getattr(error, "message", None) or str(error) or type(error).__name__
    return None
