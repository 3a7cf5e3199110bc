"""How `status` prints the processes, and what they have to say."""

import typer

from ops.cli.output import emit_table
from ops.status.report import StatusReport


def show_processes(report: StatusReport) -> None:
    """The processes of this machine, and what they or their sources have to say."""
    rows = [(one.name, one.pid, one.ready, one.port, one.admin_port) for one in report.processes]
    emit_table(["process", "pid", "ready", "port", "admin port"], rows)
    dead = [(use_case, reason, n) for use_case, of in report.dead_letters.items() for reason, n in of.items()]
    if dead:
        emit_table(["use case", "dead letters", "records"], dead)
    for one in report.processes:
        for why in one.why:
            typer.echo(f"{one.name}: {why}", err=True)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for why in report.unavailable:
        typer.echo(f"not available: {why}", err=True)
