"""Commands on lanes: where they stand, what was moved, and moving it."""

from typing import Annotated, Any

import msgspec
import typer

from ops.checks.cycles import ended_cycles
from ops.cli.answers.shown import answers_line, show_answers
from ops.cli.options import EPILOG, NO_REASON, Config, LaneName, Output, Reason, VersionName, open_site
from ops.cli.output import Format, emit_fields, emit_json, emit_table
from ops.cycles.asking import CycleAsked, ask_for_cycle
from ops.cycles.shown import cycle_now
from ops.cycles.waiting import await_cycle, exit_code_of_cycle, verdict_line
from ops.exits import FAILED_CHECK, UNAVAILABLE, RefusedError
from ops.money.shown import money_fields
from ops.moves.followers import followers
from ops.moves.operator import MoveReport, Operator
from ops.show.values import ratio_of, time_of
from ops.site import Site
from ops.status.collect import collect, promise_of
from ops.status.report import LaneStatus, PromiseShown, StatusReport
from store.control import Control, CycleEnded, CycleKind
from store.cycles.signs import Signs
from store.errors import RegistryError
from store.event import Lane, wall_clock_s
from store.registry.manifest import Manifest, Verdict
from store.registry.moves import Move, fold
from store.registry.records import ClassifyRecord, RankRecord, StudentRecord

app = typer.Typer()
cycle = typer.Typer(no_args_is_help=True, help="Ask for a cycle.", epilog=EPILOG)

_NOTHING_ANSWERS = "nothing answers: no process of ours runs here or was heard; `understudy run all` starts them"
_SAME_LABEL = "the same label"
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
            emit_fields(_lane_fields(found), title=found.lane)
            show_answers(found.answers)
        if len(report.lanes) > 1:
            emit_fields(money_fields(report.money), title="all lanes")
        _show_processes(report)
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
    """Verify a version and show what it says of itself: policy, verdict, topics with size and escalated share.

    Example: understudy show 3f2a9c --lane acme/support
    """
    site = open_site(config)
    where = site.lane(lane).lane
    versions = site.registry.versions(where)
    opened = versions.open(versions.resolve(version))
    if output is Format.json:
        emit_json({"id": opened.id, "signed_by": opened.signed_by, **msgspec.json.decode(opened.signed)})
        return
    emit_fields(_version_fields(opened.id, opened.signed_by, opened.manifest), title=f"version {opened.id} of {where}")
    if opened.manifest.topics:
        rows = [(t.name, t.items, round(t.requests), ratio_of(t.escalated_ratio)) for t in opened.manifest.topics]
        emit_table(["topic", "items", "requests", "escalated"], rows, title="topics")


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


def _unreadable(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio_of(ratio)} of the teacher's answers"


def _lane_fields(found: LaneStatus) -> dict[str, object]:
    buffer, last = found.buffer, found.last_move
    return {
        "served": ", ".join(f"{name}: {version or 'cold'}" for name, version in found.served.items()) or "by nobody",
        "champion": found.champion if found.moves_ok else "unknown: the moves do not verify",
        "anchor": found.anchor,
        "pinned": found.pinned,
        "paused": found.paused,
        "last move": f"{last.number} {last.kind} by {last.who}, {time_of(last.time_s)}: {last.why}" if last else None,
        **_promise_fields(found.promise),
        "budget": f"{'?' if found.budget.used is None else found.budget.used} of {found.budget.limit} calls in 24 h",
        "escalated": ratio_of(found.escalated_ratio),
        "unreadable": _unreadable(found.unread_ratio),
        "buffer": None
        if buffer is None
        else f"{buffer.counted} counted, {buffer.repeats} repeats, {buffer.evicted} evicted, lag {buffer.lag_records}",
        "answers": answers_line(found.answers),
        **money_fields(found.money),
        "cycle now": cycle_now(found.trainer),
        "last cycle": None if found.last_cycle is None else _cycle_line(found.last_cycle),
        **({} if found.training_permitted else {"training": "not permitted by the settings"}),
    }


def _cycle_line(cycle: CycleEnded) -> str:
    line = f"{time_of(cycle.at_s)}, {cycle.kind}: {cycle.verdict}"
    line += f": {cycle.why}" if cycle.why else ""
    return line if cycle.next_try_s is None else f"{line}; next try {time_of(cycle.next_try_s)}"


def _promise_fields(promise: PromiseShown) -> dict[str, object]:
    audited = "unknown: Redis does not answer"
    if promise.state is not None:
        short = "" if promise.audits_short is None else f", {promise.audits_short} audits short"
        audited = f"{ratio_of(promise.estimate)} of {promise.audits} audits, at least {ratio_of(promise.low)}{short}"
    if promise.target is None:
        return {"promise": "none: budget only", "agreement": audited}
    named = f"promise {promise.target:.0%}"
    if promise.agreement != _SAME_LABEL:
        named = f"{named} ({promise.agreement})"
    return {named: audited if promise.state is None else f"{promise.state}: {audited}"}


def _show_processes(report: StatusReport) -> None:
    rows = [(one.name, one.pid, one.ready, one.port, one.admin_port) for one in report.processes]
    emit_table(["process", "pid", "ready", "port", "admin port"], rows)
    dead = [(use_case, reason, n) for use_case, of in report.dead_letters.items() for reason, n in of.items()]
    if dead:
        emit_table(["use case", "dead letters", "records"], dead)
    for one in report.processes:
        for why in one.why:
            typer.echo(f"{one.name}: {why}", err=True)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for why in report.unavailable:
        typer.echo(f"not available: {why}", err=True)


def _student_fields(student: StudentRecord) -> dict[str, object]:
    match student:
        case ClassifyRecord(labels=labels, pool_weights=weights):
            return {"labels": len(labels), "weights in the pool": " and ".join(f"{one:.2f}" for one in weights)}
        case RankRecord(k=k, epsilon=epsilon, tuned_share=share):
            return {"agreement": f"the first {k} within {epsilon:g}", "fine-tuned share of a score": f"{share:.2f}"}


def _version_fields(version: str, signed_by: str, manifest: Manifest) -> dict[str, object]:
    policy, snapshot = manifest.policy, manifest.snapshot
    return {
        "id": version,
        "signed by": signed_by,
        "made": time_of(manifest.created_s),
        "kind": manifest.kind,
        "parent": manifest.parent,
        "encoder": f"{manifest.base.name}, {manifest.served_parameters:,} parameters served",
        **_student_fields(manifest.student),
        "snapshot": f"{snapshot.train} train, {snapshot.calibrate} calibrate, {snapshot.judge} judge rows"
        if snapshot
        else None,
        "policy": f"answers at confidence {policy.threshold:.3f} and above: {ratio_of(policy.coverage_ratio)} of "
        f"traffic, agreement at least {ratio_of(policy.lower)} (target {ratio_of(policy.target)})"
        if policy and policy.threshold is not None
        else "certifies no threshold: a lane that keeps a promise escalates everything",
        "verdict": _verdict_line(manifest.verdict),
    }


def _verdict_line(verdict: Verdict | None) -> str | None:
    if verdict is None:
        return None
    line = f"{verdict.outcome} ({verdict.phase}), {verdict.rows_judged} rows judged"
    if verdict.difference is not None and verdict.lower is not None:
        line += f", difference {verdict.difference:+.3f}, at least {verdict.lower:+.3f}, margin {verdict.delta:.3f}"
    return "; ".join([line, *verdict.refusals])
