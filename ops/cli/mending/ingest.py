"""`understudy ingest skip`: read on past what the log has lost."""

from typing import Annotated

import typer

from ops.cli.options import EPILOG, Config, DryRun, Output, Why, at_the_terminal, need_reason, open_site
from ops.cli.output import Format, emit_json, emit_table
from ops.reports import Skipped
from ops.site import Site

ingest = typer.Typer(no_args_is_help=True, help="Ingest: escalations from the log into the buffer.", epilog=EPILOG)


@ingest.command("skip", epilog=EPILOG)
def skip(
    config: Config = None,
    use_case: Annotated[
        str | None, typer.Option(help="Whose partitions; may be left out where there is only one.", show_default=False)
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="This one alone.", show_default=False)] = None,
    to: Annotated[
        str,
        typer.Option(
            metavar="beginning|end|OFFSET",
            help="Where to read on. beginning: at the first record that can be read, so that nothing that is left is"
            " lost. end: nothing is read twice, and what is there now and was not read never will be.",
        ),
    ] = "beginning",
    *,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Read on where a partition stands still: its position is not in the log, or its next record is damaged.

    First see what is lost with --dry-run. Ingest may run, and goes on by itself within seconds. Refused (exit code 4)
    while nothing stands still. `verify` names each skip from then on.

    Example: understudy ingest skip --use-case support --reason "retention was too short in May"
    """
    from ops.repair.command import skip_site  # noqa: PLC0415 - a rollback need not wait for what other commands need

    need_reason(reason, dry_run=dry_run)
    site = open_site(config)
    chosen = _use_case(site, use_case)
    found = skip_site(site, chosen, partition, to=to, dry_run=dry_run, who=at_the_terminal(), why=reason)
    if output is Format.json:
        emit_json(found)
    else:
        _show_skipped(found)


def _use_case(site: Site, name: str | None) -> str:
    known = ", ".join(site.use_cases)
    if name is None and len(site.use_cases) == 1:
        return site.use_cases[0]
    if name not in site.use_cases:
        message = f"which one? {known}" if name is None else f"no use case {name}; there is {known}"
        raise typer.BadParameter(message, param_hint="--use-case")
    return name


def _show_skipped(found: list[Skipped]) -> None:
    rows = [
        (
            one.partition,
            one.position,
            f"{one.begin} to {one.end}",
            one.to,
            one.never_read,
            one.read_again,
            "moved" if one.done else "would be moved",
        )
        for one in found
    ]
    emit_table(["partition", "position", "log", "reads on at", "never read", "read again", ""], rows)
    for one in found:
        typer.echo(one.why_stopped)
    if any(one.read_again for one in found):
        typer.echo(
            "Of the records that are read again, those among the newest 32 of their question count once, older ones"
            " twice."
        )
