"""`understudy doctor`: what is wrong with an installation, why, and what mends it."""

from pathlib import Path
from typing import Annotated, Final

import typer

from ops.cli.options import EPILOG, Config, Output, open_site
from ops.cli.output import Format, emit_json
from ops.doctor.checks import CHECKS
from ops.doctor.finding import Diagnosis, Finding, Visit, diagnose, diagnosis
from ops.exits import BAD_SETTINGS, FAILED_CHECK
from store.errors import SettingsError

app = typer.Typer()

_COLOURS: Final = {"ok": "green", "warning": "yellow", "fault": "red", "not_checked": "cyan"}


@app.command(epilog=EPILOG)
def doctor(
    config: Config = None,
    outage_h: Annotated[
        float, typer.Option(min=0.0, help="Hours for which ingest may be away at most: Kafka must keep events so long.")
    ] = 72.0,
    *,
    no_teacher: Annotated[
        bool, typer.Option("--no-teacher", help="Make no paid call; else each endpoint is asked one small question.")
    ] = False,
    output: Output = Format.table,
) -> None:
    """Find what is wrong with an installation, from its settings to its disk, and say why and what mends it.

    Each finding says why, and which command or setting mends it; nothing is changed. Checks that need what is down are
    named as not checked. Exit code 0: no fault; 1: a fault; 2: the settings cannot be read, and nothing else was.

    Example: understudy doctor --no-teacher -o json
    """
    try:
        site = open_site(config)
    except SettingsError as error:
        mend = f"understudy init {Path(config).parent if config else '.'}"
        lines = [Finding(check="settings", level="fault", why=line, mend=mend) for line in str(error).splitlines()]
        _show(diagnosis(lines), output)
        raise typer.Exit(BAD_SETTINGS) from error
    found = diagnose(Visit(site=site, outage_s=outage_h * 3600, ask_teacher=not no_teacher), CHECKS)
    _show(found, output)
    if not found.ok:
        raise typer.Exit(FAILED_CHECK)


def _show(found: Diagnosis, output: Format) -> None:
    if output is Format.json:
        emit_json(found)
        return
    for one in found.findings:
        level = typer.style(f"{one.level.replace('_', ' '):<12}", fg=_COLOURS[one.level])
        typer.echo(f"{level}{one.check:<14}{f'{one.lane}: ' if one.lane else ''}{one.why}")
        if one.mend is not None:
            typer.echo(f"{'':<26}-> {one.mend}")
    typer.echo(f"{found.faults} faults, {found.warnings} warnings, {found.not_checked} not checked")
