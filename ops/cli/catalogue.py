"""`understudy catalogue`: the documents of a ranking lane, embedded before anybody asks."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from ops.cli.options import EPILOG, Config, LaneName, Output, open_site
from ops.cli.output import Format, emit_fields, emit_json, emit_table
from ops.exits import FAILED_CHECK, RefusedError
from ops.sections import LaneSection
from ops.show.values import time_of
from ops.site import Site
from ops.tasks import TASKS

catalogue = typer.Typer(
    no_args_is_help=True, help="Catalogues: documents of a ranking lane, embedded before anybody asks.", epilog=EPILOG
)
_MIB = 1 << 20


@catalogue.command(epilog=EPILOG)
def load(
    path: Annotated[Path, typer.Argument(metavar="ITEMS", help="JSON lines, JSON array or CSV, .gz too.")],
    config: Config = None,
    lane: LaneName = None,
    output: Output = Format.table,
) -> None:
    """Embed a lane's documents with its encoder, and keep their vectors; gateways take them within seconds.

    A row is a document: a text, or an object with `text`. The file takes the place of the one before; what was computed
    for this encoder is not computed again, and a load that was stopped goes on where it was. After another encoder
    load it again. Documents that are in no catalogue are embedded as they come.

    Example: understudy catalogue load items.jsonl --lane acme/shop
    """
    from ops.readers.files import look  # noqa: PLC0415 - other commands start without what it needs

    look(path)
    site = open_site(config)
    section = _ranking(site, lane)
    from ops.imports import catalogues  # noqa: PLC0415 - as above

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("embedding", total=None)
        made = catalogues.load(
            site, section, path, seen=lambda done, of: progress.update(task, completed=done, total=max(of, 1))
        )
    if output is Format.json:
        emit_json(made)
        return
    emit_fields(
        {
            "documents": made.catalogue.documents,
            "rows": made.rows,
            "embedded now": made.computed,
            "skipped": made.skipped,
            "encoder": made.catalogue.encoder,
            "size": _size(made.catalogue.size_bytes),
        },
        title=f"catalogue of {made.catalogue.lane}",
    )
    for row in made.bad:
        typer.echo(f"line {row['line']}: {row['why']}: skipped", err=True)
    if made.skipped > len(made.bad):
        typer.echo(f"… and {made.skipped - len(made.bad)} more", err=True)


@catalogue.command(epilog=EPILOG)
def show(config: Config = None, lane: LaneName = None, output: Output = Format.table) -> None:
    """Say which documents of a lane are embedded: how many, since when, for which encoder. Exit code 1: none is.

    Example: understudy catalogue show --lane acme/shop
    """
    site = open_site(config)
    section = _ranking(site, lane)
    from ops.imports import catalogues  # noqa: PLC0415 - as above

    found = catalogues.shown(site, section)
    if output is Format.json:
        emit_json(found)
    elif found:
        emit_table(
            ["encoder", "documents", "made", "size", "base"],
            [(one.encoder, one.documents, time_of(one.made_s), _size(one.size_bytes), one.base[:12]) for one in found],
            title=f"catalogue of {section.lane}",
        )
    if not found:
        typer.echo(f"{section.lane} has no catalogue: `understudy catalogue load` makes one", err=True)
        raise typer.Exit(FAILED_CHECK)


def _ranking(site: Site, lane: str | None) -> LaneSection:
    """The lane, if it ranks documents."""
    section = site.lane(lane)
    if not TASKS[section.task].has_catalogue:
        message = f"{section.lane} is a lane of {section.task}: a catalogue is of documents that are ranked"
        raise RefusedError(message)
    return section


def _size(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:,.1f} MiB"
