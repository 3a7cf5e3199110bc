"""The options that every command takes in the same way."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli.output import EXIT_CODES, Format
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


def open_site(config: Path | None) -> "Site":
    """The installation that the settings describe; what this process writes from now on is for its owner alone.

    Raises:
        SettingsError: a key is missing or wrong; the message names it.
    """
    from ops.settings import Settings  # noqa: PLC0415 - as above
    from ops.site import Site  # noqa: PLC0415 - as above

    write_for_owner_alone()
    return Site(Settings.load(config))
