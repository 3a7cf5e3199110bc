"""Commands on data: check the buffer against the log, list dead letters, import a log."""

from collections import Counter, deque
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress

from ops import importer
from ops.actions import ask_for_cycle
from ops.cli_options import EPILOG, Config, LaneName, Output, open_site
from ops.output import FAILED_CHECK, Format, RefusedError, emit_fields, emit_json, emit_table
from ops.sections import LaneSection
from ops.site import Site
from ops.verify import VerifyReport
from ops.verify import verify as verify_lanes
from store.control import Control
from store.event import wall_clock_s
from store.redact import redact_input
from stream.dead_letter import read_dead_letters
from stream.ingest import IngestSettings
from stream.log import topic_of

_STALLED_S: Final = 15.0

app = typer.Typer()
dlq = typer.Typer(no_args_is_help=True, help="Dead letters: records that will never become items.", epilog=EPILOG)


@app.command(epilog=EPILOG)
def verify(config: Config = None, lane: LaneName = None, output: Output = Format.table) -> None:
    """Recompute the buffer from the log with a second program; check every move, signature and file.

    Ingest may be at work. Exit code 1 on any mismatch. `complete` is false where retention has cut the log's beginning:
    then only what must be there whatever came before is looked for.

    Example: understudy verify -o json
    """
    site = open_site(config)
    chosen = [section.lane for section in site.lanes(lane)]
    with (
        Console(stderr=True).status("reading the log and every version"),
        site.redis_client() as client,
        site.history(client) as history,
    ):
        report = verify_lanes(
            site.rules(),
            chosen,
            history=history,
            buffer=site.buffer(client),
            registry=site.registry,
            items_per_stratum=site.settings.buffer.items_per_stratum,
            max_age_s=IngestSettings().max_age_s,
        )
    if output is Format.json:
        emit_json(report)
    else:
        _show_verified(report)
    if not report.ok:
        raise typer.Exit(FAILED_CHECK)


@dlq.command("list", epilog=EPILOG)
def dlq_list(
    config: Config = None,
    use_case: Annotated[str | None, typer.Option(help="Of this use case alone.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    output: Output = Format.table,
) -> None:
    """List dead letters: why, where the record came from, and when. Nothing of its content is shown.

    Example: understudy dlq list --limit 20 -o json
    """
    site = open_site(config)
    if use_case is not None and use_case not in site.use_cases:
        message = f"--use-case: no use case {use_case}; there is {', '.join(site.use_cases)}"
        raise typer.BadParameter(message)
    newest: deque[dict[str, Any]] = deque(maxlen=limit)
    reasons: Counter[str] = Counter()
    with site.redis_client() as client, site.history(client) as history:
        for name in [use_case] if use_case else site.use_cases:
            for letter in read_dead_letters(history, name, site.secret):
                reasons[letter.reason] += 1
                newest.append(
                    {
                        "use_case": name,
                        "reason": letter.reason,
                        "detail": letter.detail,
                        "topic": letter.topic,
                        "partition": letter.partition,
                        "offset": letter.offset,
                        "time": letter.time.isoformat(),
                        "size_bytes": letter.size,
                    }
                )
    if output is Format.json:
        emit_json({"total": reasons.total(), "by_reason": dict(reasons), "letters": list(newest)})
        return
    emit_table(["time", "reason", "origin", "bytes", "detail"], [_letter_row(letter) for letter in newest])
    typer.echo(f"{reasons.total()} dead letters in all")


@app.command("import", epilog=EPILOG)
def import_log(
    path: Annotated[Path, typer.Argument(metavar="LOG", help="JSONL: one object a line, with a text and a label.")],
    config: Config = None,
    lane: LaneName = None,
    text: Annotated[str | None, typer.Option(help="Column of the text; found by itself otherwise.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the teacher's label; a dot goes inside.")] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and report, publish nothing.")] = False,
    output: Output = Format.table,
) -> None:
    """Make a first student from a log that you already have: publish its rows, then ask for a cycle.

    Bad rows are skipped and named by line. Importing twice counts once.

    Example: understudy import answers.jsonl --lane acme/support --text question --label teacher.label
    """
    site = open_site(config)
    section = site.lane(lane)
    if section.task != "classify" or not section.training_permitted:
        message = f"{section.lane}: only lanes of classify whose training_permitted is true take an import"
        raise RefusedError(message)
    columns = importer.find_columns(path, text=text, label=label)
    if dry_run:
        found = list(importer.read_rows(path, columns, frozenset(section.labels)))
        bad = [row for row in found if isinstance(row, importer.BadRow)]
        _show_import(importer.report(path, section.lane, columns, len(found) - len(bad), bad), output)
        return
    _show_import(_import(site, section, path, columns), output)


def _import(site: Site, section: LaneSection, path: Path, columns: importer.Columns) -> importer.ImportReport:
    """Publish the rows, wait for ingest, ask for a cycle."""
    from ops.wiring import present_prompt  # noqa: PLC0415 - the gateway's room, which other commands do without

    now_s, lane = wall_clock_s(), section.lane
    into = importer.ImportLane(
        lane=lane,
        labels=frozenset(section.labels),
        lane_key=site.secret.lane_key(lane),
        redact=lambda value: redact_input(value, site.secret.redaction_key(lane)),
        model=section.teacher.model,
        prompt_version=present_prompt(section),
    )
    rows = importer.read_rows(path, columns, into.labels)
    with site.redis_client() as client, Progress(console=Console(stderr=True)) as progress:
        site.ensure_topics(client)
        task = progress.add_task("publishing", total=importer.count_lines(path))
        with closing(site.appender(client)) as appender:
            published, bad = importer.publish_rows(
                rows,
                into,
                appender,
                undated_s=now_s - site.settings.trainer.quarantine_s - 1.0,
                oldest_s=now_s - IngestSettings().max_age_s,
                seen=lambda: progress.advance(task),
            )
        progress.add_task("waiting for ingest", total=None)
        with site.history(client) as history:
            ends = {slot: history.bounds(slot)[1] for slot in history.slots(topic_of(lane.use_case))}
        buffer = site.buffer(client)
        ingested = importer.await_applied(ends, lambda: buffer.positions(lane.use_case), stalled_s=_STALLED_S)
        if ingested:
            why = f"import of {path.name}"
            ask_for_cycle(Control(client), lane, kind="head", candidate=None, why=why, now_s=wall_clock_s())
    return importer.report(path, lane, columns, published, bad, ingested=ingested, cycle_asked=ingested)


def _show_import(report: importer.ImportReport, output: Format) -> None:
    if output is Format.json:
        emit_json(report)
        return
    emit_fields(
        {
            "lane": report.lane,
            "text from": report.text_column,
            "label from": report.label_column,
            "published": report.published,
            "skipped": report.skipped,
            "cycle": "asked for" if report.cycle_asked else "not asked for",
        },
        title=f"import of {report.path}",
    )
    for row in report.bad:
        typer.echo(f"line {row['line']}: {row['why']}: skipped", err=True)
    if report.skipped > len(report.bad):
        typer.echo(f"… and {report.skipped - len(report.bad)} more", err=True)
    if report.ingested is False:
        typer.echo("ingest has not taken the rows yet: see that it runs, then `understudy cycle start`", err=True)


def _show_verified(report: VerifyReport) -> None:
    emit_fields(
        {
            "log": f"{report.records} records, {'whole' if report.complete else 'its beginning is gone'}",
            "items": f"{report.found} found, {report.expected} expected",
            "wrong": report.wrong,
            "chain of moves": "sound" if report.chain_ok else "BROKEN",
            "signatures": "sound" if report.signatures_ok else "WRONG",
            "versions": "sound" if report.versions_ok else "DAMAGED",
        },
        title="sound" if report.ok else "NOT SOUND",
    )
    rows = [("missing", name, "") for name in report.missing] + [("extra", name, "") for name in report.extra]
    rows += [("differs", one.what, ", ".join(one.fields)) for one in report.differing]
    if rows:
        emit_table(["wrong", "item", "fields"], rows)
    for problem in report.problems:
        typer.echo(problem, err=True)


def _letter_row(letter: dict[str, Any]) -> tuple[object, ...]:
    origin = f"{letter['topic']}/{letter['partition']}/{letter['offset']}"
    return letter["time"], letter["reason"], origin, letter["size_bytes"], letter["detail"]
