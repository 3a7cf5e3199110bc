"""Commands on dead letters: see them, put them on their topic again, or note that they are dealt with."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ops.cli.options import (
    EPILOG,
    Config,
    DryRun,
    Output,
    Why,
    need_reason,
    open_site,
    use_cases_of,
)
from ops.cli.output import Format, emit_fields, emit_json, emit_table
from ops.exits import FAILED_CHECK, RefusedError
from ops.reports import DeadLetterReport, LetterOpened, LettersSettled
from ops.show.values import time_of
from store.letters.decisions import Settlement

if TYPE_CHECKING:  # a list of letters need not wait for what settles them
    from ops.letters.settling import Order
    from ops.site import Site

_NAMED: Final = 3  # of letters that became the same, by id; with -o json each is named

dlq = typer.Typer(no_args_is_help=True, help="Dead letters: records that will never become items.", epilog=EPILOG)

UseCase = Annotated[str | None, typer.Option(help="Of this use case alone.", show_default=False)]
Kind = Annotated[str | None, typer.Option(help="Of this reason alone, as `list` names it.", show_default=False)]
Letters = Annotated[
    list[str] | None, typer.Argument(metavar="[LETTER]...", help="Ids, or the beginning of one each; --all otherwise.")
]
All = Annotated[bool, typer.Option("--all", help="Every open letter (of --kind).")]


@dlq.command("list", epilog=EPILOG)
def dlq_list(
    config: Config = None,
    use_case: UseCase = None,
    kind: Kind = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many, of each use case.")] = 100,
    output: Output = Format.table,
) -> None:
    """List dead letters: how many of each reason, which, and when. Nothing of their content is shown.

    Example: understudy dlq list --limit 20 -o json
    """
    from ops.letters.reading import Choice, list_letters  # noqa: PLC0415 - a rollback need not wait for these imports

    site = open_site(config)
    report = list_letters(site, use_cases_of(site, use_case), limit, Choice(kind=kind))
    if output is Format.json:
        emit_json(report)
    else:
        _show_list(report)


@dlq.command("show", epilog=EPILOG)
def dlq_show(
    letter: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")],
    config: Config = None,
    use_case: UseCase = None,
    output: Output = Format.table,
) -> None:
    """Open one dead letter: what the producer sent, with personal data replaced by tokens.

    Example: understudy dlq show 3fa1
    """
    from ops.letters.reading import open_letter  # noqa: PLC0415 - as above

    site = open_site(config)
    opened = open_letter(site, use_cases_of(site, use_case), letter)
    if output is Format.json:
        emit_json(opened)
    else:
        _show_opened(opened)


@dlq.command("replay", epilog=EPILOG)
def dlq_replay(
    letters: Letters = None,
    config: Config = None,
    use_case: UseCase = None,
    kind: Kind = None,
    *,
    everything: All = False,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Put dead letters on their topic again, after what was wrong is mended: each once, unchanged.

    One that this release and these settings would still not take is left, and says why (exit code 1). Restart ingest
    first where the labels were what was wrong: it is refused while one runs here that was started before. Who, why and
    when is signed with the operator's key; `dlq show` tells it.

    Example: understudy dlq replay --all --kind off_list --reason "the labels were added"
    """
    _settle("replayed", letters, config, use_case, kind, everything, dry_run, reason, output)


@dlq.command("drop", epilog=EPILOG)
def dlq_drop(
    letters: Letters = None,
    config: Config = None,
    use_case: UseCase = None,
    kind: Kind = None,
    *,
    everything: All = False,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Note that dead letters are dealt with: status and alerts name them no longer. Nothing is deleted.

    Those that the log's retention has deleted already are dropped with --all.

    Example: understudy dlq drop --all --kind undecodable --reason "a test producer, switched off"
    """
    _settle("dropped", letters, config, use_case, kind, everything, dry_run, reason, output)


@dlq.command("reopen", epilog=EPILOG)
def dlq_reopen(
    letters: Letters = None,
    config: Config = None,
    use_case: UseCase = None,
    kind: Kind = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every dropped letter (of --kind).")] = False,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Undo a drop: the letters are open again, named by status and alerts, and may be replayed.

    One that was replayed is left, and says why (exit code 1): its event is in the log.

    Example: understudy dlq reopen LETTER --reason "the producer can be mended after all"
    """
    from ops.letters.reopening import reopen_letters  # noqa: PLC0415 - a rollback need not wait for these imports

    found = _decided(reopen_letters, "dropped", "dropped", letters, config, use_case, kind, everything, dry_run, reason)
    _told(found, "reopened", output)


@dlq.command("decisions", epilog=EPILOG)
def dlq_decisions(config: Config = None, use_case: UseCase = None, output: Output = Format.table) -> None:
    """List every decision about dead letters: who replayed, dropped or reopened how many, when, and why.

    Each is signed, and `understudy verify` compares them with what is noted of the letters.

    Example: understudy dlq decisions --use-case support
    """
    from ops.letters.reading import list_decisions  # noqa: PLC0415 - as above

    site = open_site(config)
    found = list_decisions(site, use_cases_of(site, use_case))
    if output is Format.json:
        emit_json(found)
        return
    if not found:
        typer.echo("nothing was decided yet")
        return
    emit_table(
        ["use case", "decision", "time", "what", "letters", "who", "why"],
        [
            (
                one.use_case,
                one.number,
                time_of(one.at_s),
                one.kind,
                len(one.letters) + sum(one.gone.values()),
                one.who,
                one.why,
            )
            for one in found
        ],
    )


def _settle(
    outcome: Settlement,
    letters: list[str] | None,
    config: Config,
    use_case: str | None,
    kind: str | None,
    everything: bool,  # noqa: FBT001 - the options, in their order
    dry_run: bool,  # noqa: FBT001
    reason: str,
    output: Format,
) -> None:
    from ops.letters.settling import settle_letters  # noqa: PLC0415 - as above

    found = _decided(settle_letters, "open", outcome, letters, config, use_case, kind, everything, dry_run, reason)
    _told(found, outcome, output)


def _decided(
    decide: Callable[["Site", "Order"], LettersSettled],
    state: str,
    outcome: Settlement,
    letters: list[str] | None,
    config: Config,
    use_case: str | None,
    kind: str | None,
    everything: bool,  # noqa: FBT001 - the options, in their order
    dry_run: bool,  # noqa: FBT001
    reason: str,
) -> list[LettersSettled]:
    """What became of the chosen letters, use case by use case."""
    need_reason(reason, dry_run=dry_run)
    if bool(letters) == everything:
        message = "name the letters (`understudy dlq list` does), or say --all"
        raise typer.BadParameter(message, param_hint="LETTER")
    from ops.letters.reading import Choice  # noqa: PLC0415 - as above
    from ops.letters.settling import Order  # noqa: PLC0415 - as above

    site = open_site(config)
    choice = Choice(ids=tuple(letters or ()), kind=kind)
    found = [
        decide(
            site,
            Order(use_case=one, choice=choice, outcome=outcome, dry_run=dry_run, why=reason),
        )
        for one in use_cases_of(site, use_case)
    ]
    if not any(one.letters or one.gone for one in found):
        message = f"no {state} dead letter is meant: `understudy dlq list` names all"
        raise RefusedError(message)
    return found


def _told(found: list[LettersSettled], outcome: str, output: Format) -> None:
    """Say what became of them; exit code 1 where one was left."""
    if output is Format.json:
        emit_json(found)
    else:
        _show_settled(found, outcome)
    if any(letter.why_not for one in found for letter in one.letters):
        raise typer.Exit(FAILED_CHECK)


def _show_list(report: DeadLetterReport) -> None:
    kinds = [
        (one.use_case, one.tenant, one.reason, one.open, one.replayed, one.dropped, one.newest[:19], one.example)
        for one in report.kinds
    ]
    emit_table(["use case", "tenant", "reason", "open", "replayed", "dropped", "newest", "example"], kinds)
    letters = [
        (one.id, one.time[:19], one.reason, f"{one.topic}/{one.partition}/{one.offset}", one.state, one.detail)
        for one in report.letters
    ]
    if letters:
        emit_table(["letter", "time", "reason", "origin", "state", "detail"], letters)
    older = report.total - len(letters)
    typer.echo(f"{report.total} dead letters in all{f'; --limit names {older:,} older ones' if older else ''}")


def _show_opened(opened: LetterOpened) -> None:
    letter = opened.letter
    emit_fields(
        {
            "reason": f"{letter.reason}: {letter.detail}",
            "origin": f"{letter.topic}/{letter.partition}/{letter.offset}",
            "time": letter.time,
            "bytes": letter.size_bytes,
            "state": letter.state,
            **({} if opened.who is None else {"by": f"{opened.who}, {time_of(opened.at_s or 0.0)}: {opened.why}"}),
            **({} if opened.decision is None else {"decision": opened.decision}),
        },
        title=letter.id,
    )
    typer.echo(opened.content if opened.content is not None else f"nothing to show: {opened.why_no_content}")


def _show_settled(found: list[LettersSettled], outcome: str) -> None:
    alike: dict[tuple[str, str, str | None], list[str]] = {}
    for letter in (letter for one in found for letter in one.letters):
        became = outcome if letter.done else "left" if letter.why_not else f"would be {outcome}"
        alike.setdefault((letter.reason, became, letter.why_not), []).append(letter.id)
    rows = [
        (len(ids), reason, became, why_not, " ".join(ids[:_NAMED]) + (" …" if len(ids) > _NAMED else ""))
        for (reason, became, why_not), ids in alike.items()
    ]
    if rows:
        emit_table(["letters", "reason", "outcome", "why not", "which"], rows)
    for one in found:
        if one.noted_again:
            typer.echo(f"{one.use_case}: {one.noted_again} earlier decisions were not noted as signed: noted again")
        if one.gone:
            verb = "would be dropped" if one.dry_run else "dropped"
            typer.echo(f"{one.use_case}: {one.gone} that the log no longer has: {verb}")
