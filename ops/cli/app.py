"""The `understudy` command. It starts without torch; `run` and the trainer's child alone import that."""

import sys
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from typer.core import TyperGroup

from ops.cli import backtest as cli_backtest
from ops.cli import data as cli_data
from ops.cli import lane as cli_lane
from ops.cli import run as cli_run
from ops.cli.access import keys as cli_keys
from ops.cli.options import EPILOG, Output
from ops.cli.output import Format, emit_error, emit_json, emit_table, exit_code_of
from ops.init import init as prepare
from ops.letters import cli as cli_letters
from ops.processes.leaving import leaving_at_once
from ops.repair import cli as cli_repair
from store.errors import UnderstudyError


class _Group(TyperGroup):
    """The root command: an error of ours ends it with a message and its exit code, not with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; what it logs goes beside its answer, to standard error."""
        if not structlog.is_configured():
            structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
        try:
            return super().invoke(ctx)
        except UnderstudyError as error:
            emit_error(error)
            raise typer.Exit(exit_code_of(error)) from error


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        from importlib.metadata import version  # noqa: PLC0415 - for this alone

        typer.echo(f"understudy {version('understudy')}")
        raise typer.Exit


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Understudy: a small student answers, a large teacher takes the hard cases, the student learns from those.",
    epilog=EPILOG,
)


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Keep the promise, save the bill."""
    del version


@app.command(epilog=EPILOG)
def init(
    directory: Annotated[Path, typer.Argument(help="Made where it is missing.")] = Path(),
    *,
    force: Annotated[bool, typer.Option("--force", help="Write the settings file anew; keys are kept.")] = False,
    output: Output = Format.table,
) -> None:
    """Write a commented settings file, the keys and the data secret.

    Example: understudy init /etc/understudy
    """
    made = prepare(directory, force=force)
    if output is Format.json:
        emit_json({"files": made})
    else:
        emit_table(["file", "", "what"], [(one.path, "made" if one.made else "kept", one.what) for one in made])


app.add_typer(cli_run.app, name="run")
app.add_typer(cli_lane.app)
app.add_typer(cli_lane.cycle, name="cycle")
app.add_typer(cli_data.app)
app.add_typer(cli_letters.dlq, name="dlq")
app.add_typer(cli_keys.keys, name="keys")
app.add_typer(cli_repair.ingest, name="ingest")
app.add_typer(cli_repair.buffer, name="buffer")
app.add_typer(cli_backtest.app)


def main() -> None:
    """The entry point of the `understudy` script."""
    with leaving_at_once():
        app(prog_name="understudy")


if __name__ == "__main__":
    main()
