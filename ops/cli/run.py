"""`understudy run`: the long-lived processes. Only here, and in what a trainer's child does, is torch imported."""

from typing import Annotated

import typer

from ops.cli.options import EPILOG, Config, open_site
from ops.logs import lines as logs
from ops.processes.leaving import is_a_daemon

app = typer.Typer(no_args_is_help=True, help="Run a process until it is stopped.", epilog=EPILOG)

Lifeline = Annotated[
    int | None, typer.Option(hidden=True, help="Read end of the supervisor's pipe: the process ends when it closes.")
]


@app.callback()
def daemon() -> None:
    """Run a process until it is stopped."""
    is_a_daemon()


@app.command(epilog=EPILOG)
def serve(config: Config = None, lifeline: Lifeline = None) -> None:
    """Run the gateway: the student answers, or escalates to the teacher.

    Example: understudy run serve --config /etc/understudy/understudy.toml
    """
    logs.configure("serve")
    from ops.processes.run.serve import run_serve  # noqa: PLC0415 - the CLI starts without what processes need

    run_serve(open_site(config), lifeline, config)


@app.command(epilog=EPILOG)
def ingest(config: Config = None, lifeline: Lifeline = None) -> None:
    """Run ingest: escalations from the log into the replay buffer.

    Example: understudy run ingest
    """
    logs.configure("ingest")
    from ops.processes.run.ingest import run_ingest  # noqa: PLC0415 - as above

    run_ingest(open_site(config), lifeline)


@app.command(epilog=EPILOG)
def train(config: Config = None, lifeline: Lifeline = None) -> None:
    """Run the trainer: cycles when they are due, and the moves that the gate lets through.

    Example: understudy run train
    """
    logs.configure("train")
    from ops.processes.run.train import run_train  # noqa: PLC0415 - as above

    run_train(open_site(config), lifeline)


@app.command("all", epilog=EPILOG)
def run_everything(config: Config = None) -> None:
    """Run all of them under one supervisor, with a private Redis where redis.url is empty.

    A process that crashes is started again with backoff; Ctrl-C stops everything in order.

    Example: understudy run all
    """
    logs.configure("all")
    from ops.processes.run.all import run_all  # noqa: PLC0415 - as above

    raise typer.Exit(run_all(open_site(config), config))
