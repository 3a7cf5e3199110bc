"""The options that every command takes in the same way."""

from pathlib import Path
from typing import Annotated

import typer

from ops.cli.output import EXIT_CODES, Format
from ops.settings import Settings
from ops.site import Site
from ops.state.private_files import write_for_owner_alone

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
LaneName = Annotated[
    str | None,
    typer.Option("--lane", "-l", help="tenant/use_case; may be left out where there is only one.", show_default=False),
]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it is kept in the signed move.")]
NO_REASON = "no reason given"
EPILOG = EXIT_CODES


def open_site(config: Path | None) -> Site:
    """The installation that the settings describe; what this process writes from now on is for its owner alone.

    Raises:
        SettingsError: a key is missing or wrong; the message names it.
    """
    write_for_owner_alone()
    return Site(Settings.load(config))
