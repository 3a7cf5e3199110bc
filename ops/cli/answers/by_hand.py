"""`understudy answers`: what people say of single questions, and the way back from any ruling."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ops.cli.answers.labels import kept_census, report, ruling_json, show_rulings
from ops.cli.answers.selecting import Selecting
from ops.cli.options import EPILOG, Config, DryRun, LaneName, Output, Why, need_reason, open_site
from ops.cli.output import Format, emit_json, emit_table
from ops.cli.signature import takes
from ops.rulings.by_hand import ByHand, Given, Order, correct, drop, given_in
from ops.rulings.decision import sign, undoing
from ops.sections import LaneSection
from ops.site import Site
from store.answers.rulings import in_force
from store.event import wall_clock_s

answers = typer.Typer(
    no_args_is_help=True,
    help="Answers to single questions: correct them, or learn from them no more.\n\nBoth are signed rulings: nothing"
    " that was said is changed, the next cycle goes by them, and each can be undone.",
    epilog=EPILOG,
)


class RulingsShown(msgspec.Struct, frozen=True, kw_only=True):
    """Every ruling of a lane."""

    lane: str
    rulings: list[dict[str, Any]]
    in_force: list[int]


@answers.command("list", epilog=EPILOG)
def list_rulings(config: Config = None, lane: LaneName = None, output: Output = Format.table) -> None:
    """List every ruling of a lane: who corrected, dropped, renamed or accepted what, why, and whether it holds.

    Example: understudy answers list --lane acme/support
    """
    site = open_site(config)
    section = site.lane(lane)
    rulings = site.rulings(section.lane)
    if output is Format.json:
        known = [ruling.number for ruling in in_force(rulings)]
        emit_json(RulingsShown(lane=str(section.lane), rulings=list(map(ruling_json, rulings)), in_force=known))
        return
    show_rulings(rulings)
    if not rulings:
        typer.echo(f"{section.lane}: there are no rulings")


@answers.command("correct", epilog=EPILOG)
def correct_answers(
    item: Annotated[
        str | None, typer.Argument(metavar="[ITEM]", help="A question's id, or its beginning: `buffer show` names it.")
    ] = None,
    answer: Annotated[
        str | None,
        typer.Argument(
            metavar="[ANSWER]",
            help='A label; of rank {"scores": […]} or {"order": […]}, of the documents as `buffer show` lists them; of'
            " chat a text.",
        ),
    ] = None,
    config: Config = None,
    lane: LaneName = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Many: a JSONL file with item and answer in each line, such as `buffer export` writes and you have"
            " edited. Lines whose answer is as it was are left.",
            show_default=False,
        ),
    ] = None,
    *,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Say what the right answer to a question is: from the next cycle on it is learned, and students are judged by it.

    It holds whatever the teacher said before or says later to the same question, under any prompt. A question that is
    held out stays held out. Personal data in an answer is replaced before it is signed.

    Example: understudy answers correct 3fa1 refund --reason "it is about money"
    """
    need_reason(reason, dry_run=dry_run)
    if (file is None) == (item is None or answer is None) or (file is not None and item is not None):
        message = "name a question and its answer, or a file of them with --file"
        raise typer.BadParameter(message, param_hint="ITEM")
    given = [Given(item=item or "", answer=answer or "")] if file is None else given_in(file)
    site = open_site(config)
    section, order = site.lane(lane), Order(why=reason, now_s=wall_clock_s(), dry_run=dry_run)
    with site.redis_client() as client:
        _show(correct(site, client, section, given, order, edited=file is not None), output)


@answers.command("drop", epilog=EPILOG)
@takes(Selecting)
def drop_answers(
    selecting: Selecting,
    config: Config = None,
    lane: LaneName = None,
    *,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Learn from some questions no more, and judge no student by them, whatever is delivered again or asked again.

    Look first with --dry-run. A bad hour of the teacher's, say: --since and --until.

    Example: understudy answers drop --since 2026-03-01T12:00 --until 2026-03-01T13:00 --reason "a bad hour"
    """
    need_reason(reason, dry_run=dry_run)
    site = open_site(config)
    section, order = site.lane(lane), Order(why=reason, now_s=wall_clock_s(), dry_run=dry_run)
    selection = selecting.selection(site, section)
    if selection.is_all:
        message = "say which questions are meant: by their ids, or by an option"
        raise typer.BadParameter(message, param_hint="ITEM")
    with site.redis_client() as client:
        _show(drop(site, client, section, selection, order), output)


@answers.command("undo", epilog=EPILOG)
def undo_ruling(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Of a ruling that is in force.")],
    config: Config = None,
    lane: LaneName = None,
    *,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Undo any ruling of a lane, on answers, labels or a prompt: what it told is told no more; nothing was lost by it.

    Example: understudy answers undo 3 --reason "the teacher was right"
    """
    need_reason(reason, dry_run=dry_run)
    site = open_site(config)
    section = site.lane(lane)
    rulings = site.rulings(section.lane)
    draft, signed = undoing(section.lane, rulings, number, lambda names: _having(site, section, names)), None
    if not dry_run:
        chain, now_s = site.registry.rulings(section.lane), wall_clock_s()
        signed = sign(draft, chain, site.operator_key(), why=reason, now_s=now_s, expected=len(rulings) + 1).number
    report(draft.shown(str(section.lane), ruling=signed, done=not dry_run), output)


def _having(site: Site, section: LaneSection, labels: Sequence[str]) -> int:
    """Kept items that have some labels; 0, aloud, while Redis does not answer."""
    census = kept_census(site, section)
    return 0 if census is None else census.having(labels)


def _show(found: ByHand, output: Format) -> None:
    if output is Format.json:
        emit_json(found)
        return
    rows = [
        (one.item, one.question, one.split, " / ".join(map(_told, one.before)) or "-", _told(one.after))
        for one in found.questions
    ]
    emit_table(["item", "question", "split", "answer", "becomes" if found.done else "would become"], rows)
    if found.total > len(rows):
        typer.echo(f"… and {found.total - len(rows):,} more")
    signed = f"ruling {', '.join(map(str, found.rulings))}" if found.done else "nothing was signed"
    left = f"; {found.unchanged:,} are as they were" if found.unchanged else ""
    typer.echo(f"{found.lane}: {signed}: {found.kind} {found.total:,} questions{left}")
    if found.done:
        typer.echo("the next cycle goes by it: `understudy cycle start` asks for one now")


def _told(answer: object) -> str:
    if answer is None:
        return "dropped"
    return answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
