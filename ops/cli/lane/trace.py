"""The command that tells one request's whole life."""

from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli.options import EPILOG, Config, LaneName, Output, open_site
from ops.cli.output import Format, emit_fields, emit_json, emit_table

if TYPE_CHECKING:  # as below
    from ops.trace.records import Traced

app = typer.Typer()


@app.command(epilog=EPILOG)
def trace(
    event: Annotated[
        str, typer.Argument(metavar="EVENT", help="Id of an event, a response or an item, or the beginning of one.")
    ],
    config: Config = None,
    lane: LaneName = None,
    *,
    whole: Annotated[
        bool, typer.Option("--whole", help="Read the log from its beginning, whatever time the id holds.")
    ] = False,
    output: Output = Format.table,
) -> None:
    """Tell one request's life: how it was decided, its event in the log, its item, and the versions that learned.

    EVENT is what X-Understudy-Event or `event_id` said, a response's `id`, or an item of `understudy buffer show`.
    Texts are redacted, as they are kept. What is not known any more is said as such; where nothing is, it ends with 4.

    Example: understudy trace 0198f2c4-7d0e-7a31-9c55-2f6e1f0b9a77
    """
    from ops.trace import shown  # noqa: PLC0415 - a rollback need not wait for these imports
    from ops.trace.life import trace as life_of  # noqa: PLC0415 - as above

    site = open_site(config)
    found = life_of(site, event, site.lanes(lane), whole=whole)
    if output is Format.json:
        emit_json(found)
    else:
        _show(found, shown)


def _show(found: "Traced", shown: ModuleType) -> None:
    if found.event is not None:
        emit_fields(shown.event_fields(found.event), title=f"event {found.id}")
    elif found.named != "item":
        typer.echo(f"{found.named} {found.id}")
    if found.records:
        emit_table(*shown.record_rows(found.records), title="log")
    for line in shown.letter_lines(found.letters):
        typer.echo(line)
    if found.item is not None:
        emit_fields(shown.item_fields(found.item), title=f"item {found.item.id}")
    if found.versions:
        emit_table(*shown.version_rows(found.versions), title="versions")
    for line in [*shown.refusal_lines(found.versions), *found.cycles]:
        typer.echo(line)
    for note in found.notes:
        typer.echo(f"note: {note}")
    if found.named != "item":
        typer.echo(shown.looked_line(found.looked))
