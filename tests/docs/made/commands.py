"""The reference of the command line: every command with its arguments, options and example, from the typer app."""

import inspect
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, get_args

import typer

from ops.cli.app import app
from ops.exits import EXIT_CODES
from tests.docs.made.markdown import head, one_line, page, table

PROGRAM: Final = "understudy"
_ROOT_COMMAND: Final[Any] = typer.main.get_command(app)


def commands_page() -> str:
    """The whole page."""
    commands = list(all_commands())
    lines = head(
        "Command line",
        "the commands' own help",
        "Every command takes `--help`. Those that answer something take `-o json`, which prints one JSON value and"
        " nothing else on standard output; tables fit the terminal, and 80 columns in a pipe (`COLUMNS` sets another"
        " width), and what fits no table is told a block a row. Those on an installation take `--config`; those on a"
        " lane `--lane tenant/use_case`, which may be left out where there is one lane.",
        EXIT_CODES,
        "`status` ends with 3 where no process of ours answers, here or over Redis; while one does, what is missing is"
        " named and it ends with 0. `cycle start --wait` ends with 0 where the version was adopted or there was nothing"
        " new, 4 where it was declined or held, 1 where the cycle failed, 3 where no trainer is at work, and 130 after"
        " Ctrl-C, which leaves the cycle running.",
    )
    lines += table(
        ("command", "what it does"),
        [(f"[`{name}`](#{name.replace(' ', '-')})", _paragraphs(command)[0]) for name, command in commands],
    )
    for name, command in commands:
        lines += [f"## {name}", "", *_told(name, command)]
    return page(lines)


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with its full name, in the order in which help lists them."""
    for name in _ROOT_COMMAND.commands:
        yield from _below(name, _ROOT_COMMAND.commands[name])


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for inner, one in command.commands.items():
            yield from _below(f"{name} {inner}", one)
    else:
        yield name, command


def _told(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    usage = " ".join([PROGRAM, name, *(_shown(one) for one in arguments), "[OPTIONS]"])
    yield from (f"`{usage}`", "")
    for paragraph in _paragraphs(command):
        if example := re.fullmatch(r"Example: (.*)", paragraph):
            yield from ("```console", f"$ {example[1]}", "```", "")
        else:
            yield from (paragraph, "")
    if arguments:
        yield from table(("argument", ""), [(f"`{_metavar(one)}`", one.help or "") for one in arguments])
    if options:
        yield from table(("option", "default", ""), [(_names(one), _default(one), one.help or "") for one in options])


def _paragraphs(command: Any) -> list[str]:
    return [one_line(one) for one in inspect.cleandoc(command.help).replace("\b", "").split("\n\n")]


def _metavar(argument: Any) -> str:
    return re.sub(r"[\[\].]", "", argument.metavar or argument.name.upper())


def _shown(argument: Any) -> str:
    shown = _metavar(argument) + ("…" if argument.nargs == -1 else "")
    return shown if argument.required else f"[{shown}]"


def _names(option: Any) -> str:
    names = [*option.opts, *option.secondary_opts]
    kind = "" if option.is_flag else f" {option.metavar or _kind(option)}"
    return ", ".join(f"`{one}{kind}`" for one in names)


def _kind(option: Any) -> str:
    kind = option.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "|".join(kind)
    return "|".join(map(str, get_args(kind))) or {Path: "PATH", int: "N", float: "X"}.get(kind, "TEXT")


def _default(option: Any) -> str:
    value = getattr(option.default, "value", option.default)
    if option.required:
        return "required"
    if value is None or value is False or value in {"", ()} or option.show_default is False or callable(value):
        return ""
    return f"`{value.as_posix() if isinstance(value, Path) else value}`"
