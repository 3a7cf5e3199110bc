"""The command that makes the report that somebody reads each week."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from ops.cli.options import EPILOG, Config, LaneName, Output, open_site
from ops.cli.output import Format, emit_json
from ops.report.records import Report

app = typer.Typer()
_DAYS = 7
_SUFFIXES = (".html", ".md")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        message = f"{text!r} is no day: write it as 2026-01-31"
        raise typer.BadParameter(message) from error


@app.command(epilog=EPILOG)
def report(
    config: Config = None,
    lane: LaneName = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DAY", help="First day, UTC, as 2026-01-31; else six days before the last.", show_default=False
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DAY", help="Last day, UTC; else the last that is over.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .html or .md file, replaced where it is there; else Markdown is printed.", show_default=False
        ),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Make the page that is read each week: money, quality, what was learned, what stayed hard, what is to come.

    Of all lanes, unless one is named. Its forecast is kept in state_dir, and a later report says whether it held. The
    figures are those of `status` and `history`. An HTML page needs nothing but a browser.

    Example: understudy report --out /var/www/understudy.html
    """
    from ops.report.collect import Window  # noqa: PLC0415 - a rollback need not wait for what other commands need
    from ops.report.collect import report as collect  # noqa: PLC0415 - as above
    from store.event import wall_clock_s  # noqa: PLC0415 - as above

    if out is not None and out.suffix not in _SUFFIXES:
        message = f"{out}: its name ends with .html or .md"
        raise typer.BadParameter(message, param_hint="--out")
    yesterday = datetime.fromtimestamp(wall_clock_s(), UTC).date() - timedelta(days=1)
    last = yesterday if until is None else _day(until)
    first = last - timedelta(days=_DAYS - 1) if since is None else _day(since)
    if first > last:
        message = f"{first} is after {last}"
        raise typer.BadParameter(message, param_hint="--since")
    site = open_site(config)
    found = collect(site, site.lanes(lane), Window(since=first, until=last))
    if out is not None or output is Format.table:
        _show(found, out)
    if output is Format.json:
        emit_json(found)


def _show(found: Report, out: Path | None) -> None:
    """Print the page, or write it."""
    from ops.report.forms import html, markdown  # noqa: PLC0415 - as above
    from ops.report.page import page_of  # noqa: PLC0415 - as above

    page = page_of(found)
    text = html(page) if out is not None and out.suffix == ".html" else markdown(page)
    if out is None:
        typer.echo(text, nl=False)
        return
    _write(out, text)
    typer.echo(f"{page.title}: {out}", err=True)


def _write(path: Path, text: str) -> None:
    from store.errors import SettingsError  # noqa: PLC0415 - as above
    from store.registry.files.durable import replace  # noqa: PLC0415 - as above

    try:
        replace(path, text.encode())
    except OSError as error:
        message = f"--out: {path}: {error.strerror}"
        raise SettingsError(message) from error
