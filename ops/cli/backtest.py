"""`understudy backtest`: what a log says that the product would save, before anything is deployed."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console

from ops.cli.options import EPILOG, Output
from ops.cli.output import Format, emit_json, emit_table
from ops.exits import UNAVAILABLE
from store.errors import SettingsError

app = typer.Typer()
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells say it


Budgets = Annotated[
    str | None,
    typer.Option("--budget", help="Teacher calls over the log, as 1200,1500,2700; else the curve.", show_default=False),
]
Seeds = Annotated[int, typer.Option(min=1, max=100, help="Runs of each budget; what differs is chance.")]
Target = Annotated[
    float | None,
    typer.Option(min=0.01, max=0.999, help="Promise this agreement; budgets are ceilings then.", show_default=False),
]
Confidence = Annotated[
    float | None, typer.Option(min=0.5, max=0.999, help="With which the target is promised; else 0.95.")
]
Metric = Annotated[
    Literal["accuracy", "balanced_accuracy"] | None, typer.Option(help="What calls are spent to raise; else accuracy.")
]
Audits = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Of the student's answers, checked; else 0.05 with --target, 0 without."),
]
Text = Annotated[str | None, typer.Option(help="Column of the text; found by itself otherwise.")]
Label = Annotated[
    str | None, typer.Option(help="Column of the teacher's answer, a text or a whole number; a dot goes inside.")
]
Gold = Annotated[str | None, typer.Option(help="Column of the true label, where there is one: for scores alone.")]
Ident = Annotated[str | None, typer.Option("--id", help="Column of the row's id.")]
Time = Annotated[
    str | None, typer.Option(help="Column of the time: Unix seconds or milliseconds, or ISO 8601 with its zone.")
]
Days = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="What the rows are spread over if a time cannot be read; at most 3,660. Unset: no figure is for a day.",
    ),
]
PerCall = Annotated[float | None, typer.Option(min=0.0, help="Dollars a teacher call; none: calls alone are shown.")]
PerHour = Annotated[
    float, typer.Option(min=0.0, help="Dollars an hour of processor time that trains; about a cloud's.")
]
Encoder = Annotated[str | None, typer.Option(help="minilm, or the folder of another; else minilm.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes; else as many as physical cores.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Folder of curve.png, report.html and backtest.json.")]
Answers = Annotated[Path | None, typer.Option(help="Write a line a row: what was answered, by whom, and why.")]
Published = Annotated[Path | None, typer.Option(help="JSON list of {name, calls, accuracy} to draw beside.")]
WriteSettings = Annotated[bool, typer.Option("--write-settings", help="Write the recommendation as settings.toml.")]
SettingsFile = Annotated[
    Path | None, typer.Option(help="Take prices, encoder and target from a lane of it; else no settings are read.")
]
Lane = Annotated[str | None, typer.Option("--lane", "-l", help="tenant/use_case in that file; else its first.")]
Shuffle = Annotated[bool, typer.Option("--shuffle", help="Other seeds than 0 take the rows in another order.")]
NoFineTune = Annotated[bool, typer.Option("--no-fine-tune", help="The head on the frozen encoder alone: far quicker.")]

Replay = Annotated[str, typer.Option(hidden=True, help="What replays a log, module:callable.")]


@app.command(epilog=EPILOG)
def backtest(
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG", help="A text and the teacher's answer in each row: JSON lines, JSON array or CSV."
        ),
    ],
    *,
    budget: Budgets = None,
    seeds: Seeds = 3,
    target: Target = None,
    confidence: Confidence = None,
    metric: Metric = None,
    audit_ratio: Audits = None,
    text: Text = None,
    label: Label = None,
    gold: Gold = None,
    id_: Ident = None,
    time: Time = None,
    days: Days = None,
    usd_per_call: PerCall = None,
    usd_per_training_hour: PerHour = 0.05,
    shuffle: Shuffle = False,
    no_fine_tune: NoFineTune = False,
    encoder: Encoder = None,
    jobs: Jobs = None,
    out: Out = Path("out/backtest"),
    answers: Answers = None,
    published: Published = None,
    write_settings: WriteSettings = False,
    settings: SettingsFile = None,
    lane: Lane = None,
    output: Output = Format.table,
    replay: Replay = "ops.backtest.replay:Replay",
) -> None:
    """Replay a log through the service's own parts, and say what they would have saved and at what quality.

    Bad rows are skipped and named by line. Ctrl-C keeps what was finished and ends with 130; 3 where a run failed.

    Example: understudy backtest answers.jsonl --budget 1200,2700 --usd-per-call 0.002 --write-settings
    """
    from ops.readers.files import look  # noqa: PLC0415 - as below

    look(log)  # what is no log is said before anything else is imported
    from ops.backtest.command import Options, run_backtest  # noqa: PLC0415 - other commands start without what it needs
    from ops.backtest.log import ColumnNames  # noqa: PLC0415 - as above
    from ops.show.progress import row_progress  # noqa: PLC0415 - as above

    options = Options(
        log=log,
        columns=ColumnNames(text=text, label=label, gold=gold, id=id_, time=time),
        days=days,
        budgets=_numbers(budget),
        seeds=seeds,
        target=target,
        confidence=confidence,
        metric=metric,
        audit_ratio=audit_ratio,
        fine_tune=not no_fine_tune,
        shuffle=shuffle,
        encoder=encoder,
        usd_per_call=usd_per_call,
        usd_per_training_hour=usd_per_training_hour,
        jobs=jobs,
        out=out,
        answers=answers,
        published=published,
        write_settings=write_settings,
        settings=settings,
        lane=lane,
    )
    with row_progress(Console(stderr=True)) as show:
        result = run_backtest(options, show, replay)
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
    typer.echo(f"{found.rows:,} rows, {found.labels} labels, {unusable}; intervals are of 95 %\n")
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


def _numbers(words: str | None) -> tuple[int, ...] | None:
    if words is None:
        return None
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError as error:
        message = f"--budget {words}: give whole numbers, as 1200,1500,2700"
        raise SettingsError(message) from error
