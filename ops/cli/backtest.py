"""`understudy backtest`: what a log says that the product would save, before anything is deployed."""

from typing import Any, Final

import typer
from rich.console import Console

from ops.backtest.options import Options
from ops.cli.options import EPILOG, Output
from ops.cli.output import Format, emit_json, emit_table
from ops.cli.signature import takes
from ops.exits import UNAVAILABLE

app = typer.Typer()
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells say it


@app.command(epilog=EPILOG)
@takes(Options)
def backtest(options: Options, output: Output = Format.table) -> None:
    """Replay a log through the service's own parts, and say what they would have saved and at what quality.

    Bad rows are skipped and named by line. Ctrl-C keeps what was finished and ends with 130; 3 where a run failed.

    Example: understudy backtest answers.jsonl --budget 1200,2700 --usd-per-call 0.002 --write-settings
    """
    from ops.readers.files import look  # noqa: PLC0415 - as below

    look(options.log)  # what is no log is said before anything else is imported
    from ops.show.needed import need_figures  # noqa: PLC0415 - as below

    need_figures("understudy backtest")
    from ops.backtest.command import run_backtest  # noqa: PLC0415 - other commands start without what it needs
    from ops.show.progress import row_progress  # noqa: PLC0415 - as above

    with row_progress(Console(stderr=True)) as show:
        result = run_backtest(options, show)
    _end(result, output)


def _end(result: Any, output: Format) -> None:
    """Print what was found and what was not, and leave with the exit code for it."""
    from ops.backtest.command import failures  # noqa: PLC0415 - as above

    if output is Format.json and result.backtest is not None:
        emit_json(result.backtest)
    elif result.backtest is not None:
        _show(result)
    if result.untimed_why is not None and (output is Format.json or result.backtest is None):
        typer.echo(result.untimed_why, err=True)
    for sentence in failures(result.outcome):
        typer.echo(sentence, err=True)
    if result.outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if result.outcome.missing:
        raise typer.Exit(UNAVAILABLE)


def _show(result: Any) -> None:
    from ops.backtest.recommend import headline  # noqa: PLC0415 - as above
    from ops.backtest.report.tables import bought, compared, priced, promised  # noqa: PLC0415 - as above
    from ops.backtest.report.words import span, warnings  # noqa: PLC0415 - as above

    found = result.backtest
    typer.echo(f"{headline(found)}.\n")
    for sentence in warnings(found):
        typer.echo(f"! {sentence}\n")
    unusable = f"{found.unusable:,} without a usable teacher answer"
    kinds = f"{found.labels} labels, " if found.agreement is None else ""
    typer.echo(f"{found.rows:,} rows, {kinds}{unusable}; intervals are of 95 %\n")
    if found.proposal:
        typer.echo(f"{found.proposal[0].upper()}{found.proposal[1:]}.\n")
    for title, grid in (
        ("What each budget gives (*: recommended)", bought(found)),
        ("Beside the teacher, and other ways to spend it", compared(found)),
        (f"How the promise of {found.target} fared", promised(found)),
        ("What is bought from each budget to the next", priced(found)),
    ):
        if grid.rows and len(grid.head) > 1:
            rows = [[f"{row[0]} *", *row[1:]] if at == grid.marked else row for at, row in enumerate(grid.rows)]
            emit_table(grid.head, rows, title=title)
            typer.echo()
    if found.recommendation is not None:
        typer.echo(
            f"Recommended: {found.recommendation.calls_per_day:,} calls{span(found)}, {found.recommendation.why}."
        )
    for row in found.bad:
        typer.echo(f"line {row['line']}: {row['why']}: skipped", err=True)
    if found.skipped > len(found.bad):
        typer.echo(f"… and {found.skipped - len(found.bad)} more", err=True)
    for path in result.files:
        typer.echo(f"wrote {path}")
