"""Commands on data: check the buffer against the log, say how far ingest is behind, import a log."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from ops.cli.options import EPILOG, Config, LaneName, Output, open_site, use_cases_of
from ops.cli.output import Format, emit_fields, emit_json, emit_table
from ops.exits import FAILED_CHECK, UNAVAILABLE, RefusedError
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
from ops.reports import ImportReport, ProducerShown, VerifyReport
from ops.tasks import TASKS

app = typer.Typer()


@app.command(epilog=EPILOG)
def verify(
    config: Config = None,
    lane: LaneName = None,
    *,
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="Score a version's held-out rows anew: do its signed numbers come out?"),
    ] = False,
    version: Annotated[
        str | None,
        typer.Option(help="With --recompute: this version.", show_default=False),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Recompute the buffer from the log with a second program; check every move, signature and file.

    Ingest may be at work. Exit code 1 on any mismatch. `complete` is false where retention has cut the log's beginning:
    then only what must be there whatever came before is looked for. `lost` is what the champion was made from and Redis
    no longer knows of.

    With --recompute, instead: threshold, coverage and verdict of a version from its frozen rows and logged verdicts,
    within .01; no teacher is asked. Exit code 1 where one does not come out, 4 where the rows are gone.

    Example: understudy verify --recompute --lane acme/support
    """
    if recompute or version is not None:
        _recompute(config, lane, version, output, recompute=recompute)
        return
    from ops.checks.verify import verify_site  # noqa: PLC0415 - a rollback need not wait for what other commands need

    site = open_site(config)
    with Console(stderr=True).status("reading the log and every version"):
        report = verify_site(site, [section.lane for section in site.lanes(lane)])
    if output is Format.json:
        emit_json(report)
    else:
        show_verified(report)
    if not report.ok:
        raise typer.Exit(FAILED_CHECK)


@app.command(epilog=EPILOG)
def lag(
    config: Config = None,
    use_case: Annotated[str | None, typer.Option(help="Of this use case alone.", show_default=False)] = None,
    output: Output = Format.table,
) -> None:
    """Say how far ingest is behind, partition by partition. One that lags alone has a hot key, or stands still.

    Example: understudy lag --use-case support
    """
    from ops.checks.lag import lags_of  # noqa: PLC0415 - as above
    from store.buffer.ledger import BEGINNING  # noqa: PLC0415 - as above

    site = open_site(config)
    found = lags_of(site, use_cases_of(site, use_case))
    if output is Format.json:
        emit_json(found)
        return
    rows = [
        (
            f"{one.topic}/{one.partition}",
            "not begun" if one.position == BEGINNING else one.position,
            f"{one.begin} to {one.end}",
            one.lag_records,
            one.oldest_unread,
        )
        for one in found
    ]
    emit_table(["partition", "position", "log", "unread", "oldest unread"], rows)


@app.command(epilog=EPILOG)
def producers(config: Config = None, lane: LaneName = None, output: Output = Format.table) -> None:
    """Say what another producer's events must name: the topic, and the lane's present model, prompt version and labels.

    Example: understudy producers --lane acme/support -o json
    """
    from ops.answers.reading import Reading  # noqa: PLC0415 - as above
    from stream.log import topic_of  # noqa: PLC0415 - as above

    wanted = [
        ProducerShown(
            tenant=section.tenant,
            use_case=section.use_case,
            task=section.task,
            topic=topic_of(section.use_case),
            model=section.teacher.model,
            prompt_version=Reading.of(section).version(),
            labels=list(section.labels),
        )
        for section in open_site(config).lanes(lane)
    ]
    if output is Format.json:
        emit_json(wanted)
        return
    for one in wanted:
        said_in = TASKS[one.task].said_in
        emit_fields(
            {
                "task": one.task,
                "topic": one.topic,
                "teacher.model": one.model,
                "teacher.prompt_version": one.prompt_version,
                **({said_in: ", ".join(one.labels)} if one.labels else {"the answer": said_in}),
            },
            title=f"{one.tenant}/{one.use_case}",
        )


@app.command("import", epilog=EPILOG)
def import_log(
    path: Annotated[Path, typer.Argument(metavar="LOG", help="JSON lines, JSON array or CSV, .gz too.")],
    config: Config = None,
    lane: LaneName = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    *,
    query: QueryColumn = None,
    documents: DocumentsColumn = None,
    scores: ScoresColumn = None,
    order: OrderColumn = None,
    query_id: QueryIdColumn = None,
    messages: MessagesColumn = None,
    answer: AnswerColumn = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and report, publish nothing.")] = False,
    output: Output = Format.table,
) -> None:
    """Make a first student from a log that you already have: publish its rows, then ask for a cycle.

    Texts and labels are found by themselves: columns of the usual names, or exports of chats (OpenAI, LiteLLM,
    Langfuse, data flywheel), of which the user's last turn is the text. So are queries, documents and scores: a list
    in each row, what was sent to a rerank endpoint with what it answered, or a document a row; and for chat whole
    conversations with what the assistant answered. Bad rows are skipped and
    named by line. Importing twice counts once. Exit code 1 where no row was good, 3 where ingest has not taken the rows
    yet.

    Example: understudy import answers.jsonl --lane acme/support --text question --label teacher.label
    """
    from ops.readers.files import count_lines, look  # noqa: PLC0415 - as above

    look(path)  # what is no log is said before anything else is imported
    site = open_site(config)
    section = site.lane(lane)
    if not section.training_permitted:
        message = f"{section.lane}: only lanes whose training_permitted is true take an import"
        raise RefusedError(message)
    from ops.readers.tasks import open_reader  # noqa: PLC0415 - as above

    columns = {"--text": text, "--label": label, "--query": query, "--documents": documents}
    columns |= {
        "--scores": scores,
        "--order": order,
        "--query-id": query_id,
        "--messages": messages,
        "--answer": answer,
    }
    reader = open_reader(section.task, path, columns, labels=section.labels, rules=site.rules(section.lane))
    from ops.imports import importing  # noqa: PLC0415 - as above

    if dry_run:
        _end_import(importing.dry_run(site, section, path, reader), output)
        return
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("publishing", total=count_lines(path))
        report = importing.import_file(site, section, path, reader, seen=lambda: progress.advance(task))
    _end_import(report, output)


def _end_import(report: ImportReport, output: Format) -> None:
    _show_import(report, output)
    if report.published == 0:
        raise typer.Exit(FAILED_CHECK)
    if report.ingested is False:
        raise typer.Exit(UNAVAILABLE)


def _show_import(report: ImportReport, output: Format) -> None:
    if output is Format.json:
        emit_json(report)
        return
    emit_fields(
        {
            "lane": report.lane,
            **{f"{what} from": column for what, column in report.columns.items()},
            "published": report.published,
            "skipped": report.skipped,
            "cycle": "asked for" if report.cycle_asked else "not asked for",
        },
        title=f"{'dry run of an ' if report.dry_run else ''}import of {report.path}",
    )
    for note in report.notes:
        typer.echo(f"note: {note}.", err=True)
    for row in report.bad:
        typer.echo(f"line {row['line']}: {row['why']}: skipped", err=True)
    if report.skipped > len(report.bad):
        typer.echo(f"… and {report.skipped - len(report.bad)} more", err=True)
    if report.ingested is False:
        typer.echo("ingest has not taken the rows yet: see that it runs, then `understudy cycle start`", err=True)


def _recompute(config: Path | None, lane: str | None, version: str | None, output: Format, *, recompute: bool) -> None:
    from ops.recompute.command import recompute_site  # noqa: PLC0415 - torch, which no other check needs

    if not recompute:
        message = "--version goes with --recompute"
        raise typer.BadParameter(message)
    site = open_site(config)
    sections = site.lanes(lane)
    if version is not None and len(sections) > 1:
        message = "--version is one lane's: name it with --lane"
        raise typer.BadParameter(message)
    with Console(stderr=True).status("scoring held-out rows anew"):
        found = [recompute_site(site, section, version) for section in sections]
    if output is Format.json:
        emit_json(found)
    else:
        rows = [(one.lane, one.version, one.rows, "as signed" if one.ok else "; ".join(one.differing)) for one in found]
        emit_table(["lane", "version", "held-out rows", "what comes out"], rows)
    if not all(one.ok for one in found):
        raise typer.Exit(FAILED_CHECK)


def _letters(report: VerifyReport) -> str:
    unsigned = f"; {report.letters_unsigned} of an earlier release, unsigned" if report.letters_unsigned else ""
    return f"{'sound' if report.letters_ok else 'NOT AS SIGNED'}{unsigned}"


def show_verified(report: VerifyReport) -> None:
    """What `verify` found."""
    emit_fields(
        {
            "log": f"{report.records} records, {'whole' if report.complete else 'its beginning is gone'}",
            "items": f"{report.found} found, {report.expected} expected",
            "wrong": report.wrong,
            "chain of moves": "sound" if report.chain_ok else "BROKEN",
            "signatures": "sound" if report.signatures_ok else "WRONG",
            "versions": "sound" if report.versions_ok else "DAMAGED",
            "decisions about dead letters": _letters(report),
        },
        title="sound" if report.ok else "NOT SOUND",
    )
    rows = [("missing", name, "") for name in report.missing] + [("extra", name, "") for name in report.extra]
    rows += [("differs", one.what, ", ".join(one.fields)) for one in report.differing]
    if rows:
        emit_table(["wrong", "item", "fields"], rows)
    for name in report.damaged:
        typer.echo(f"{name}: damaged; `understudy buffer rebuild` mends it", err=True)
    for why in report.lost:
        typer.echo(why, err=True)
    for skip in report.skipped:
        typer.echo(f"skipped: {skip}", err=True)
    for problem in report.problems:
        typer.echo(problem, err=True)
