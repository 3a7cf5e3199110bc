"""`understudy init`: the command."""

from pathlib import Path
from typing import Annotated

import typer

from ops.cli.options import EPILOG, Output
from ops.cli.output import Format, emit_json, emit_table
from ops.init import init as prepare
from serve.teacher.ask.prompts import TeacherKind
from store.event import Task

app = typer.Typer()


@app.command(epilog=EPILOG)
def init(
    directory: Annotated[Path, typer.Argument(help="Made where it is missing.")] = Path(),
    *,
    force: Annotated[bool, typer.Option("--force", help="Write the settings file anew; keys are kept.")] = False,
    task: Annotated[Task, typer.Option(help="Of the example lane.")] = "classify",
    teacher: Annotated[
        TeacherKind, typer.Option(help="Of a lane of rank: a chat model with a prompt, or a reranker without one.")
    ] = "chat",
    output: Output = Format.table,
) -> None:
    """Write a commented settings file, the keys and the data secret.

    Example: understudy init /etc/understudy
    """
    made = prepare(directory, force=force, task=task, teacher=teacher)
    if output is Format.json:
        emit_json({"files": made})
    else:
        emit_table(["file", "", "what"], [(one.path, "made" if one.made else "kept", one.what) for one in made])
