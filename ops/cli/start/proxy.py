"""`understudy proxy-log`: a log of what a teacher is asked and answers, from a day of traffic as it is."""

import typer

from ops.cli.options import EPILOG
from ops.cli.signature import takes
from ops.logs import lines as logs
from ops.recording.options import Options

app = typer.Typer()


@app.command("proxy-log", epilog=EPILOG)
@takes(Options)
def proxy_log(options: Options) -> None:
    """Stand in front of a teacher, pass everything on, and record what it is asked and answers.

    No settings file and no student: point your clients at http://localhost:8080/v1 instead of the teacher. Streams come
    as they come. Personal data is replaced by tokens in the log, and in nothing else. A client has the end of its
    answer only once its call is on disk, so a kill loses what was in flight. Ctrl-C ends it.

    Example: understudy proxy-log --task chat --teacher-url https://api.example.com/v1 --out calls.jsonl
    """
    logs.configure("proxy-log")
    from ops.recording.command import run_proxy  # noqa: PLC0415 - the list of commands imports none

    def started(port: int) -> None:
        typer.echo(f"http://{options.host}:{port}/v1 passes on to {options.teacher_url}; recorded in {options.out}")

    run_proxy(options, started)
