"""Commands on the cycles of lanes: ask for one, and wait for it."""

from typing import Annotated

import msgspec
import typer

from ops.cli.options import EPILOG, NO_REASON, Config, LaneName, Output, Reason, open_site
from ops.cli.output import Format, emit_json
from ops.cycles.asking import CycleAsked, ask_for_cycle
from ops.cycles.waiting import await_cycle, exit_code_of_cycle, verdict_line
from ops.exits import RefusedError
from ops.moves.by_hand import operator_of
from store.control import Control, CycleEnded, CycleKind
from store.cycles.signs import Signs
from store.event import Lane, wall_clock_s

cycle = typer.Typer(no_args_is_help=True, help="Ask for a cycle.", epilog=EPILOG)
_INTERRUPTED = 130


@cycle.command("start", epilog=EPILOG)
def cycle_start(
    config: Config = None,
    lane: LaneName = None,
    candidate: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Judge this version instead of training one.", show_default=False),
    ] = None,
    *,
    fine_tune: Annotated[bool, typer.Option("--fine-tune", help="Fine-tune the model, too.")] = False,
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
        version = operator_of(site).submit(section.lane, candidate=candidate, why=reason)
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
