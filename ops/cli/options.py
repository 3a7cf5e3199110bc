"""The options that every command takes in the same way."""

import os
import pwd
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli.output import Format
from ops.exits import EXIT_CODES
from ops.state.private_files import write_for_owner_alone
from store.errors import UnderstudyError

if TYPE_CHECKING:  # a log that is none is refused before settings and Redis are imported
    from ops.site import Site

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Settings file; else the one that UNDERSTUDY_SETTINGS names, else ./understudy.toml.",
        show_default=False,
    ),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="table for people, json for programs.")]


def _complete(begun: str, names: Callable[["Site"], Iterable[str]], config: Path | None) -> list[str]:
    """What a shell offers after a tab; nothing where the settings cannot be read."""
    try:
        return [name for name in names(open_site(config)) if name.startswith(begun)]
    except (UnderstudyError, OSError):
        return []


def _lanes(ctx: typer.Context, incomplete: str) -> list[str]:
    return _complete(incomplete, lambda site: (str(section.lane) for section in site.lanes(None)), _config(ctx))


def _versions(ctx: typer.Context, incomplete: str) -> list[str]:
    lane = ctx.params.get("lane")
    return _complete(
        incomplete,
        lambda site: (
            version for section in site.lanes(lane) for version in site.registry.versions(section.lane).list()
        ),
        _config(ctx),
    )


def _config(ctx: typer.Context) -> Path | None:
    given = ctx.params.get("config")
    return None if given is None else Path(given)


LaneName = Annotated[
    str | None,
    typer.Option(
        "--lane",
        "-l",
        help="tenant/use_case; may be left out where there is only one.",
        show_default=False,
        autocompletion=_lanes,
    ),
]
VersionName = Annotated[
    str, typer.Argument(metavar="VERSION", help="A version's id, or the beginning of it.", autocompletion=_versions)
]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it is kept in the signed move.")]
NO_REASON = "no reason given"
EPILOG = EXIT_CODES


def use_cases_of(site: "Site", name: str | None) -> list[str]:
    """The use case of that name, or all of them.

    Raises:
        BadParameter: there is no such use case.
    """
    if name is not None and name not in site.use_cases:
        message = f"no use case {name}; there is {', '.join(site.use_cases)}"
        raise typer.BadParameter(message, param_hint="--use-case")
    return site.use_cases if name is None else [name]


def need_reason(reason: str, *, dry_run: bool) -> None:
    """See that a decision is kept with why it was made.

    Raises:
        BadParameter: it would not be.
    """
    if not reason and not dry_run:
        message = "say why: it is kept with the decision"
        raise typer.BadParameter(message, param_hint="--reason")


def at_the_terminal() -> str:
    """Who sits there."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Why = Annotated[
    str, typer.Option("--reason", "-r", help="Why; it is kept. Needed unless --dry-run.", show_default=False)
]


def open_site(config: Path | None) -> "Site":
    """The installation that the settings describe; what this process writes from now on is for its owner alone.

    Raises:
        SettingsError: a key is missing or wrong; the message names it.
    """
    from ops.settings import Settings  # noqa: PLC0415 - as above
    from ops.site import Site  # noqa: PLC0415 - as above

    write_for_owner_alone()
    return Site(Settings.load(config))
