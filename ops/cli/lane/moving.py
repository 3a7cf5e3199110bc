"""Commands that move lanes: an operator's moves, and who has followed them."""

from typing import Annotated

import typer

from ops.cli.options import EPILOG, NO_REASON, Config, LaneName, Output, Reason, VersionName, open_site
from ops.cli.output import Format, emit_fields, emit_json
from ops.exits import FAILED_CHECK
from ops.moves.by_hand import operator_of
from ops.moves.operator import MoveReport
from ops.status.past import move_json
from store.registry.moves import Move

app = typer.Typer()

_NOBODY = "no gateway is alive: the next one to start serves it"
_NOBODY_HERE = "no gateway runs here, and Redis does not answer for other machines': each follows at its next look"


@app.command(epilog=EPILOG)
def promote(
    version: VersionName,
    config: Config = None,
    lane: LaneName = None,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Even if the lane cannot keep its promise with it; says what to expect.")
    ] = False,
    reason: Reason = NO_REASON,
    output: Output = Format.table,
) -> None:
    """Make a version the champion, whatever the gate said; waits up to 5 s for the live gateways.

    Refused, with what would happen, where the version certifies no threshold or one for another promise, and where no
    gateway would take its labels.

    Example: understudy promote 3f2a9c --reason "checked by hand"
    """
    site = open_site(config)
    report = operator_of(site).promote(site.lane(lane).lane, version=version, why=reason, force=force)
    _report(report, output)


@app.command(epilog=EPILOG)
def rollback(
    config: Config = None,
    lane: LaneName = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="Else the champion before.", show_default=False)
    ] = None,
    reason: Reason = NO_REASON,
    output: Output = Format.table,
) -> None:
    """Go back to a version and pin it; waits up to 5 s for the live gateways. Works with Redis and Kafka down.

    Automation promotes nothing until `understudy resume`.

    Example: understudy rollback --reason "live agreement below the promise"
    """
    site = open_site(config)
    _report(operator_of(site).rollback(site.lane(lane).lane, to=to, why=reason), output)


@app.command(epilog=EPILOG)
def pause(
    config: Config = None, lane: LaneName = None, reason: Reason = NO_REASON, output: Output = Format.table
) -> None:
    """Run no cycles until `understudy resume`.

    Example: understudy pause --reason "the teacher is being replaced"
    """
    site = open_site(config)
    _report_move(operator_of(site).pause(site.lane(lane).lane, why=reason), output)


@app.command(epilog=EPILOG)
def resume(
    config: Config = None, lane: LaneName = None, reason: Reason = NO_REASON, output: Output = Format.table
) -> None:
    """Unpin the champion and run cycles again.

    Example: understudy resume --reason "the fix is in"
    """
    site = open_site(config)
    _report_move(operator_of(site).resume(site.lane(lane).lane, why=reason), output)


def _report(report: MoveReport, output: Format) -> None:
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if output is Format.json:
        emit_json(report)
    else:
        emit_fields(
            {
                "from": report.before,
                "to": report.after,
                "pinned": report.pinned,
                "seconds": report.seconds,
                **{
                    f"gateway {name}": "confirmed"
                    if version == report.after
                    else f"serves {version or 'nothing: cold'}"
                    for name, version in report.served_by.items()
                },
                **{f"gateway {name}": "did not answer" for name in report.silent},
            },
            title=f"{report.lane}: move {report.move}",
        )
        if not report.served_by and not report.silent:
            typer.echo(_NOBODY if report.redis_answered else _NOBODY_HERE)
        elif not report.redis_answered:
            typer.echo("Redis does not answer: gateways on other machines were not heard", err=True)
    if not report.followed:
        count = sum(version != report.after for version in report.served_by.values()) + len(report.silent)
        typer.echo(f"{count} have not confirmed it within {report.seconds:.0f} s: see their logs", err=True)
        raise typer.Exit(FAILED_CHECK)


def _report_move(move: Move, output: Format) -> None:
    if output is Format.json:
        emit_json(move_json(move))
    else:
        typer.echo(f"{move.lane}: move {move.number}, {move.kind}")
