"""What a user may ask of a backtest: each option once, with the words that the command line has for it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from ops.readers.lists.flags import (
    AnswerColumn,
    DocumentsColumn,
    LabelColumn,
    MessagesColumn,
    OrderColumn,
    QueryColumn,
    QueryIdColumn,
    ScoresColumn,
    TextColumn,
)
from store.errors import SettingsError
from store.event import Task

_Column = str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """As the user gave them; None: not said."""

    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG", help="A question and the teacher's answer in each row: JSON lines, JSON array or CSV."
        ),
    ]
    task: Annotated[
        Task | None,
        typer.Option(help="What the log is of; else the lane's of --settings, else classify.", show_default=False),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(help="Teacher calls over the log, as 1200,1500,2700; else the curve.", show_default=False),
    ] = None
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="Runs of each budget; what differs is chance. Else 3; chat: 1.", show_default=False
        ),
    ] = None
    target: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.999, help="Promise this agreement; budgets are ceilings then.", show_default=False
        ),
    ] = None
    confidence: Annotated[
        float | None, typer.Option(min=0.5, max=0.999, help="With which the target is promised; else 0.95.")
    ] = None
    metric: Annotated[
        Literal["accuracy", "balanced_accuracy"] | None,
        typer.Option(help="What calls are spent to raise; else accuracy."),
    ] = None
    audit_ratio: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Of the student's answers, checked; else 0.05 with --target, 0 without."),
    ] = None
    text: TextColumn = None
    label: LabelColumn = None
    gold: Annotated[_Column, typer.Option(help="Column of the true label, where there is one: for scores alone.")] = (
        None
    )
    query: QueryColumn = None
    documents: DocumentsColumn = None
    scores: ScoresColumn = None
    order: OrderColumn = None
    query_id: QueryIdColumn = None
    k: Annotated[int | None, typer.Option(min=1, max=100, help="rank: first places that count; else 1.")] = None
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="rank: what a place may lose in the teacher's scores; else what they themselves propose."
        ),
    ] = None
    messages: MessagesColumn = None
    answer: AnswerColumn = None
    model: Annotated[
        str | None,
        typer.Option(help="chat: the folder of the language model that learns, or smollm2; else the lane's."),
    ] = None
    id: Annotated[_Column, typer.Option(help="Column of the row's id.")] = None
    time: Annotated[
        _Column, typer.Option(help="Column of the time: Unix seconds or milliseconds, or ISO 8601 with its zone.")
    ] = None
    days: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="What rows are spread over if a time cannot be read, at most 3,660; unset: no figure is for a day.",
        ),
    ] = None
    usd_per_call: Annotated[
        float | None, typer.Option(min=0.0, help="Dollars a teacher call; none: calls alone are shown.")
    ] = None
    usd_per_training_hour: Annotated[
        float, typer.Option(min=0.0, help="Dollars an hour of processor time that trains; about a cloud's.")
    ] = 0.05
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Other seeds than 0 take the rows in another order.")] = (
        False
    )
    no_fine_tune: Annotated[
        bool,
        typer.Option(
            "--no-fine-tune",
            help="The head on the frozen encoder alone: far quicker; chat: only the first version trains the model.",
        ),
    ] = False
    encoder: Annotated[str | None, typer.Option(help="minilm, or the folder of another; else minilm.")] = None
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; else as many as physical cores.", show_default=False)
    ] = None
    out: Annotated[Path, typer.Option(help="Folder of curve.png, report.html and backtest.json.")] = Path(
        "out/backtest"
    )
    answers: Annotated[Path | None, typer.Option(help="Write a line a row: what was answered, by whom, and why.")] = (
        None
    )
    published: Annotated[Path | None, typer.Option(help="JSON list of {name, calls, accuracy} to draw beside.")] = None
    write_settings: Annotated[
        bool, typer.Option("--write-settings", help="Write the recommendation as settings.toml.")
    ] = False
    settings: Annotated[
        Path | None, typer.Option(help="Take prices, encoder and target from a lane of it; else no settings are read.")
    ] = None
    lane: Annotated[str | None, typer.Option("--lane", "-l", help="tenant/use_case in that file; else its first.")] = (
        None
    )
    replay: Annotated[str, typer.Option(hidden=True, help="What replays a log, module:callable.")] = (
        "ops.backtest.replay:Replay"
    )

    @property
    def given(self) -> dict[str, str | int | float | None]:
        """What was said of the log, by flag."""
        names = ("text", "label", "gold", "metric", "query", "documents", "scores", "order", "query_id", "k", "epsilon")
        more = ("messages", "answer", "model", "id", "time")
        return {f"--{name.replace('_', '-')}": getattr(self, name) for name in (*names, *more)}

    @property
    def named(self) -> dict[str, str]:
        """Columns that the user named, by flag."""
        return {flag: value for flag, value in self.given.items() if isinstance(value, str)}

    @property
    def budgets(self) -> tuple[int, ...] | None:
        """Teacher calls over the log; None: the curve.

        Raises:
            SettingsError: one is no whole number.
        """
        if self.budget is None:
            return None
        try:
            return tuple(int(word) for word in self.budget.split(","))
        except ValueError as error:
            message = f"--budget {self.budget}: give whole numbers, as 1200,1500,2700"
            raise SettingsError(message) from error

    def check(self) -> None:
        """Refuse what no option of its own can tell: budgets that are no numbers, prices without an end.

        Raises:
            SettingsError: the message names the flag.
        """
        _ = self.budgets
        prices = {
            "--usd-per-call": self.usd_per_call,
            "--usd-per-training-hour": self.usd_per_training_hour,
        }
        for flag, price in prices.items():
            if price is not None and not math.isfinite(price):
                message = f"{flag} {price}: give a finite number of dollars"
                raise SettingsError(message)
