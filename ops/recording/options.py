"""What a user may ask of `understudy proxy-log`: each option once, with the words that the command line has for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from store.event import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """As the user gave them."""

    teacher_url: Annotated[
        str, typer.Option(help="Address of the teacher, up to and including /v1.", show_default=False)
    ]
    out: Annotated[Path, typer.Option(help="The log; what is there is kept.")] = Path("calls.jsonl")
    task: Annotated[
        Task, typer.Option(help="Which calls are recorded: chat completions (classify, chat), or rerank (rank).")
    ] = "chat"
    api_key_env: Annotated[
        str | None,
        typer.Option(
            help="Variable with the teacher's key; without it each client's own key goes on.", show_default=False
        ),
    ] = None
    model: Annotated[
        str | None, typer.Option(help="The teacher's model, whatever a client names.", show_default=False)
    ] = None
    prompt: Annotated[
        Path | None,
        typer.Option(
            help="classify: the prompt that clients fill in, with $text and $labels: the text is recorded by itself.",
            show_default=False,
        ),
    ] = None
    host: Annotated[str, typer.Option(help="Where to listen; more than this machine only without --api-key-env.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one, which is printed.")] = 8080
    max_mb: Annotated[int, typer.Option(min=1, help="Of one file of the log, in MiB.")] = 256
    keep: Annotated[int, typer.Option(min=0, help="Older files that are kept: OUT.1, OUT.2, ...")] = 8
    raw: Annotated[bool, typer.Option("--raw", help="Record personal data as it came.")] = False
