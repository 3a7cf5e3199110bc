"""The `understudy` command. Its list imports no command; `run` and the trainer's child alone import torch."""

from typing import Annotated, Any

import typer

from ops.cli.output import emit_error
from ops.cli.start.commands import LateCommands
from ops.exits import EXIT_CODES, exit_code_of
from ops.processes.leaving import leaving_at_once
from store.errors import UnderstudyError


class _Group(LateCommands):
    """The root command: an error of ours ends it with a message and its exit code, not with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
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
    epilog=EXIT_CODES,
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


def main() -> None:
    """The entry point of the `understudy` script."""
    with leaving_at_once():
        app(prog_name="understudy")


if __name__ == "__main__":
    main()
