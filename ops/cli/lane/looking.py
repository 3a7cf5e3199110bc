"""Commands that look at lanes: where they stand, what was moved, and what a version is."""

from typing import Annotated

import msgspec
import typer

from ops.checks.cycles import ended_cycles
from ops.cli.answers.shown import show_answers
from ops.cli.lane.shown import lane_fields, move_json, show_processes, version_fields
from ops.cli.options import EPILOG, Config, LaneName, Output, VersionName, open_site
from ops.cli.output import Format, emit_fields, emit_json, emit_table
from ops.exits import UNAVAILABLE
from ops.money.shown import money_fields
from ops.show.values import ratio_of, time_of
from ops.status.collect import collect
from ops.status.versions import version_row
from store.registry.moves import fold

app = typer.Typer()

_NOTHING_ANSWERS = "nothing answers: no process of ours runs here or was heard; `understudy run all` starts them"


@app.command(epilog=EPILOG)
def status(config: Config = None, lane: LaneName = None, output: Output = Format.table) -> None:
    """Show where every lane stands, and what it spent and saved; what cannot be read is left out, and named.

    Ends with 3 where no process of ours answers here or was heard over Redis.

    Example: understudy status -o json
    """
    site = open_site(config)
    report = collect(site, site.lanes(lane))
    if output is Format.json:
        emit_json(report)
    else:
        for found in report.lanes:
            emit_fields(lane_fields(found), title=found.lane)
            show_answers(found.answers)
        if len(report.lanes) > 1:
            emit_fields(money_fields(report.money), title="all lanes")
        show_processes(report)
    if not report.answering:
        typer.echo(_NOTHING_ANSWERS, err=True)
        raise typer.Exit(UNAVAILABLE)


@app.command(epilog=EPILOG)
def history(
    config: Config = None,
    lane: LaneName = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many moves.")] = 50,
    output: Output = Format.table,
) -> None:
    """List the moves of a lane, its versions, and what became of its cycles.

    Example: understudy history --lane acme/support --limit 10
    """
    site = open_site(config)
    section = site.lane(lane)
    where = section.lane
    moves = site.registry.moves(where).read()
    versions = [version_row(site, section, version) for version in site.registry.versions(where).list()]
    versions.sort(key=lambda row: row.created_s or 0.0)
    cycles = ended_cycles(site, where)[-limit:]
    if output is Format.json:
        shown = [move_json(move) for move in moves[-limit:]]
        emit_json({"lane": str(where), "moves": shown, "versions": versions, "cycles": cycles})
        return
    rows = [(move.number, time_of(move.time_s), move.kind, move.version, move.who, move.why) for move in moves[-limit:]]
    emit_table(["move", "time", "kind", "version", "who", "why"], rows, title=f"moves of {where}")
    emit_table(
        ["version", "made", "kind", "verdict", "agreement", "note"],
        [
            (
                row.id,
                None if row.created_s is None else time_of(row.created_s),
                row.kind,
                row.verdict,
                ratio_of(row.student_agreement),
                row.error or ("champion" if row.id == fold(moves).champion else ""),
            )
            for row in versions
        ],
        title="versions",
    )
    if cycles:
        emit_table(
            ["cycle", "kind", "seconds", "verdict", "version", "why"],
            [(time_of(one.at_s), one.kind, one.seconds, one.verdict, one.version, one.why) for one in cycles],
            title="cycles",
        )


@app.command(epilog=EPILOG)
def show(version: VersionName, config: Config = None, lane: LaneName = None, output: Output = Format.table) -> None:
    """Verify a version and show what it says of itself: policy, verdict, topics with size, escalated share, conflicts.

    A question is in conflict where one that asks nearly the same was answered otherwise.

    Example: understudy show 3f2a9c --lane acme/support
    """
    site = open_site(config)
    where = site.lane(lane).lane
    versions = site.registry.versions(where)
    opened = versions.open(versions.resolve(version))
    if output is Format.json:
        emit_json({"id": opened.id, "signed_by": opened.signed_by, **msgspec.json.decode(opened.signed)})
        return
    emit_fields(version_fields(opened.id, opened.signed_by, opened.manifest), title=f"version {opened.id} of {where}")
    if opened.manifest.topics:
        rows = [
            (t.name, t.items, round(t.requests), ratio_of(t.escalated_ratio), t.conflicts)
            for t in opened.manifest.topics
        ]
        emit_table(["topic", "items", "requests", "escalated", "in conflict"], rows, title="topics")
