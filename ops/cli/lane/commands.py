"""Commands on lanes: where they stand, what was moved, and moving it."""

from typing import Annotated, Any

import msgspec
import typer

from ops.checks.cycles import ended_cycles
from ops.cli.answers.shown import show_answers
from ops.cli.lane.shown import lane_fields, show_processes, version_fields
from ops.cli.options import EPILOG, NO_REASON, Config, LaneName, Output, Reason, VersionName, open_site
from ops.cli.output import Format, emit_fields, emit_json, emit_table
from ops.cycles.asking import CycleAsked, ask_for_cycle
from ops.cycles.waiting import await_cycle, exit_code_of_cycle, verdict_line
from ops.exits import FAILED_CHECK, UNAVAILABLE, RefusedError
from ops.money.shown import money_fields
from ops.moves.followers import followers
from ops.moves.operator import MoveReport, Operator
from ops.show.values import ratio_of, time_of
from ops.site import Site
from ops.status.collect import collect, promise_of
from store.control import Control, CycleEnded, CycleKind
from store.cycles.signs import Signs
from store.errors import RegistryError
from store.event import Lane, wall_clock_s
from store.registry.moves import Move, fold

app = typer.Typer()
cycle = typer.Typer(no_args_is_help=True, help="Ask for a cycle.", epilog=EPILOG)

_NOTHING_ANSWERS = "nothing answers: no process of ours runs here or was heard; `understudy run all` starts them"
_INTERRUPTED = 130
_NOBODY = "no gateway is alive: the next one to start serves it"
_NOBODY_HERE = "no gateway runs here, and Redis does not answer for other machines': each follows at its next look"


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
    where = site.lane(lane).lane
    moves = site.registry.moves(where).read()
    versions = [_version_row(site, lane, version) for version in site.registry.versions(where).list()]
    versions.sort(key=lambda row: row["created_s"] or 0.0)
    cycles = ended_cycles(site, where)[-limit:]
    if output is Format.json:
        shown = [_move_json(move) for move in moves[-limit:]]
        emit_json({"lane": str(where), "moves": shown, "versions": versions, "cycles": cycles})
        return
    rows = [(move.number, time_of(move.time_s), move.kind, move.version, move.who, move.why) for move in moves[-limit:]]
    emit_table(["move", "time", "kind", "version", "who", "why"], rows, title=f"moves of {where}")
    emit_table(
        ["version", "made", "kind", "verdict", "agreement", "note"],
        [
            (
                row["id"],
                None if row["created_s"] is None else time_of(row["created_s"]),
                row["kind"],
                row["verdict"],
                ratio_of(row["student_agreement"]),
                row["error"] or ("champion" if row["id"] == fold(moves).champion else ""),
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


@app.command(epilog=EPILOG)
def promote(
    version: VersionName,
    config: Config = None,
    lane: LaneName = None,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Even if the lane cannot keep its promise with it; says what to expect.")
    ] = False,
    reason: Reason = NO_REASON,
    output: Output = Format.table,
) -> None:
    """Make a version the champion, whatever the gate said; waits up to 5 s for the live gateways.

    Refused, with what would happen, where the version certifies no threshold or one for another promise, and where no
    gateway would take its labels.

    Example: understudy promote 3f2a9c --reason "checked by hand"
    """
    site = open_site(config)
    report = _operator(site).promote(site.lane(lane).lane, version=version, why=reason, force=force)
    _report(report, output)


@app.command(epilog=EPILOG)
def rollback(
    config: Config = None,
    lane: LaneName = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="Else the champion before.", show_default=False)
    ] = None,
    reason: Reason = NO_REASON,
    output: Output = Format.table,
) -> None:
    """Go back to a version and pin it; waits up to 5 s for the live gateways. Works with Redis and Kafka down.

    Automation promotes nothing until `understudy resume`.

    Example: understudy rollback --reason "live agreement below the promise"
    """
    site = open_site(config)
    _report(_operator(site).rollback(site.lane(lane).lane, to=to, why=reason), output)


@app.command(epilog=EPILOG)
def pause(
    config: Config = None, lane: LaneName = None, reason: Reason = NO_REASON, output: Output = Format.table
) -> None:
    """Run no cycles until `understudy resume`.

    Example: understudy pause --reason "the teacher is being replaced"
    """
    site = open_site(config)
    _report_move(_operator(site).pause(site.lane(lane).lane, why=reason), output)


@app.command(epilog=EPILOG)
def resume(
    config: Config = None, lane: LaneName = None, reason: Reason = NO_REASON, output: Output = Format.table
) -> None:
    """Unpin the champion and run cycles again.

    Example: understudy resume --reason "the fix is in"
    """
    site = open_site(config)
    _report_move(_operator(site).resume(site.lane(lane).lane, why=reason), output)


@cycle.command("start", epilog=EPILOG)
def cycle_start(
    config: Config = None,
    lane: LaneName = None,
    candidate: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Judge this version instead of training one.", show_default=False),
    ] = None,
    *,
    fine_tune: Annotated[bool, typer.Option("--fine-tune", help="Fine-tune the encoder, too.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended; Ctrl-C leaves it running.")] = False,
    reason: Reason = NO_REASON,
    output: Output = Format.table,
) -> None:
    """Ask the trainer for a cycle now; a candidate is submitted by a signed move first.

    With --wait it ends with 0 where the version was adopted or there was nothing new, with 4 where it was declined,
    with 1 where the cycle failed, and with 3 where no trainer is at work.

    Example: understudy cycle start --candidate 3f2a9c --reason "trained elsewhere" --wait
    """
    site = open_site(config)
    section = site.lane(lane)
    if not section.training_permitted:
        message = f"{section.lane}: training_permitted is false, so its answers may not be learned from"
        raise RefusedError(message)
    version = None
    if candidate is not None:
        version = _operator(site).submit(section.lane, candidate=candidate, why=reason)
    kind: CycleKind = "candidate" if version else "fine_tune" if fine_tune else "head"
    with site.redis_client() as client:
        control = Control(client)
        asked = ask_for_cycle(control, section.lane, kind=kind, candidate=version, why=reason, now_s=wall_clock_s())
        ended = _awaited(control, Signs(client), section.lane, asked) if wait else None
    if output is Format.json:
        emit_json(msgspec.structs.replace(asked, ended=ended))
    elif ended is None:
        typer.echo(f"{asked.lane}: a {asked.kind} cycle was asked for; `understudy history` shows what comes of it")
    else:
        typer.echo(f"{asked.lane}: {verdict_line(ended)}")
    if ended is not None:
        raise typer.Exit(exit_code_of_cycle(ended))


def _awaited(control: Control, signs: Signs, lane: Lane, asked: CycleAsked) -> CycleEnded:
    try:
        return await_cycle(control, signs, lane, asked.request, lambda line: typer.echo(line, err=True))
    except KeyboardInterrupt:
        typer.echo("the cycle goes on: `understudy status` shows how far it is", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _operator(site: Site) -> Operator:
    return Operator(
        registry=site.registry,
        key=site.operator_key(),
        now=wall_clock_s,
        promise=lambda where: promise_of(site, site.lane(str(where))),
        followers=lambda where: followers(site, where),
    )


def _report(report: MoveReport, output: Format) -> None:
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if output is Format.json:
        emit_json(report)
    else:
        emit_fields(
            {
                "from": report.before,
                "to": report.after,
                "pinned": report.pinned,
                "seconds": report.seconds,
                **{
                    f"gateway {name}": "confirmed"
                    if version == report.after
                    else f"serves {version or 'nothing: cold'}"
                    for name, version in report.served_by.items()
                },
                **{f"gateway {name}": "did not answer" for name in report.silent},
            },
            title=f"{report.lane}: move {report.move}",
        )
        if not report.served_by and not report.silent:
            typer.echo(_NOBODY if report.redis_answered else _NOBODY_HERE)
        elif not report.redis_answered:
            typer.echo("Redis does not answer: gateways on other machines were not heard", err=True)
    if not report.followed:
        count = sum(version != report.after for version in report.served_by.values()) + len(report.silent)
        typer.echo(f"{count} have not confirmed it within {report.seconds:.0f} s: see their logs", err=True)
        raise typer.Exit(FAILED_CHECK)


def _report_move(move: Move, output: Format) -> None:
    if output is Format.json:
        emit_json(_move_json(move))
    else:
        typer.echo(f"{move.lane}: move {move.number}, {move.kind}")


def _move_json(move: Move) -> dict[str, Any]:
    return {**msgspec.to_builtins(move), "lane": str(move.lane)}


def _version_row(site: Site, lane: str | None, version: str) -> dict[str, Any]:
    row: dict[str, Any] = {"id": version, "created_s": None, "kind": None, "verdict": None}
    row |= {"student_agreement": None, "error": None}
    try:
        manifest = site.registry.versions(site.lane(lane).lane).manifest(version)
    except RegistryError as error:
        return row | {"error": str(error)}
    verdict = manifest.verdict
    return row | {
        "created_s": manifest.created_s,
        "kind": manifest.kind,
        "verdict": verdict.outcome if verdict else None,
        "student_agreement": verdict.student_agreement if verdict else None,
    }
