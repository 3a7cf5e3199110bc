"""`understudy prompt`: which prompt versions the kept answers were paid under, and whether they still count."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Final

import msgspec
import redis
import typer
from rich.console import Console
from rich.progress import Progress

from ops.answers.reading import Reading
from ops.answers.standing import census_of
from ops.cli.answers.labels import report, show_rulings
from ops.cli.options import EPILOG, Config, LaneName, Output, Why, need_reason, open_site
from ops.cli.output import Format, emit_json, emit_table
from ops.exits import FAILED_CHECK, RefusedError
from ops.rulings.decision import DraftRuling, sign
from ops.rulings.draft import Prompts
from ops.rulings.sample import Quote, questions
from ops.sections import LaneSection
from ops.show.values import ratio_of, time_of
from ops.site import Site
from store.answers.census import PromptCount
from store.answers.rulings import Ruling, Sample
from store.errors import MoveConflictError
from store.event import wall_clock_s
from store.registry.signing import SigningKey, TrustedKeys

prompt = typer.Typer(
    no_args_is_help=True,
    help="Prompts of a lane: an edited prompt makes older answers stale.\n\nAccept them as they are, or ask the teacher"
    " a sample again first. `understudy answers undo NUMBER` takes an acceptance back.",
    epilog=EPILOG,
)


_SHOWN: Final = 10
_TRIES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A sample that is to be asked again first."""

    count: int
    at_least: float | None  # None: a person decides
    pay: bool  # without being asked


class PromptsShown(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt versions of a lane's kept answers."""

    lane: str
    present: str
    prompts: dict[str, PromptCount]


@prompt.command("list", epilog=EPILOG)
def list_prompts(config: Config = None, lane: LaneName = None, output: Output = Format.table) -> None:
    """List the prompt versions that the kept items were answered under, and which of them count today.

    Example: understudy prompt list --lane acme/support
    """
    site = open_site(config)
    section = site.lane(lane)
    with site.redis_client() as client:
        census = census_of(site, client, section)
    present = Reading.of(section).key()
    if output is Format.json:
        emit_json(PromptsShown(lane=str(section.lane), present=present, prompts=census.prompts))
        return
    known = {present: None, **census.prompts}
    emit_table(
        ["prompt version", "items", "no other", "asked from", "to", "counts"],
        [(name, *_counted(one, is_present=name == present)) for name, one in known.items()],
        title=f"prompt versions of {section.lane}",
    )
    show_rulings([ruling for ruling in site.registry.rulings(section.lane).read() if ruling.kind == "accept"])


@prompt.command(epilog=EPILOG)
def accept(
    old: Annotated[
        str,
        typer.Option("--from", metavar="VERSION", help="As `prompt list` shows it, or the beginning of its hash."),
    ],
    config: Config = None,
    lane: LaneName = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Ask the teacher so many of the questions again first.", show_default=False),
    ] = None,
    at_least: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="With --sample: accept if the lower end of the agreement's interval is at least this; else a person"
            " is asked.",
            show_default=False,
        ),
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="With --sample: pay without being asked.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and cost, and do nothing.")
    ] = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Let the answers that were paid under an older prompt count again, from the next cycle on.

    With --sample the teacher is asked some of the questions again, within the lane's budget and after the price was
    shown; its answers are kept like any other. Exit code 1 where the sample did not lead to an acceptance.

    Example: understudy prompt accept --from 1a2b --sample 50 --at-least 0.9 --reason "a comma was moved"
    """
    need_reason(reason, dry_run=dry_run)
    if sample is None and (at_least is not None or yes):
        message = "goes with --sample"
        raise typer.BadParameter(message, param_hint="--at-least" if at_least is not None else "--yes")
    site = open_site(config)
    section = site.lane(lane)
    if not section.training_permitted:
        message = f"{section.lane}: training_permitted is false, so its answers may not be learned from"
        raise RefusedError(message)
    wanted = None if sample is None else Wanted(count=sample, at_least=at_least, pay=yes)
    with site.redis_client() as client:
        _accept(site, client, section, old, wanted, reason, dry_run=dry_run, output=output)


def _accept(
    site: Site,
    client: redis.Redis,
    section: LaneSection,
    old: str,
    wanted: Wanted | None,
    reason: str,
    *,
    dry_run: bool,
    output: Format,
) -> None:

    where = str(section.lane)
    decision, accepted = _prompts(site, client, section).accept(old), True
    if wanted is not None:
        quoted = _quoted(site, client, section, decision, wanted)
        if dry_run:
            report(decision.shown(where, ruling=None, done=False), output)
            return
        _signs(site)  # before anything is paid
        decision = replace(decision, sample=_asked(site, client, section, quoted, wanted))
        accepted = _enough(decision, wanted)
    number = None
    if accepted and not dry_run:
        number = _signed(site, client, section, old, decision.sample, reason).number
    report(decision.shown(where, ruling=number, done=number is not None), output)
    if not accepted:
        raise typer.Exit(FAILED_CHECK)


def _prompts(site: Site, client: redis.Redis, section: LaneSection) -> Prompts:
    return Prompts(section=section, present=Reading.of(section).key(), census=census_of(site, client, section))


def _signs(site: Site) -> SigningKey:
    """The operator's key, which must be one that counts.

    Raises:
        BadSignatureError: it is not.
        SettingsError: the file is missing or readable by others.
    """
    key = site.operator_key()
    TrustedKeys.load(site.settings.keys.trusted).check(key)
    return key


def _signed(
    site: Site, client: redis.Redis, section: LaneSection, old: str, sample: Sample | None, reason: str
) -> Ruling:
    """Decide on the rulings as they are now: somebody else's, while the teacher was asked, costs no sample.

    Raises:
        RefusedError: the answers count by now, or are there no longer.
    """
    key = _signs(site)
    chain = site.registry.rulings(section.lane)
    for _ in range(_TRIES):
        expected = len(chain.read()) + 1
        decision = replace(_prompts(site, client, section).accept(old), sample=sample)
        with suppress(MoveConflictError):
            return sign(decision, chain, key, why=reason, now_s=wall_clock_s(), expected=expected)
    message = "other rulings are made all the time: run it again without --sample; the answers that were paid are kept"
    raise RefusedError(message)


def _quoted(site: Site, client: redis.Redis, section: LaneSection, decision: DraftRuling, wanted: Wanted) -> Quote:
    """Draw the questions, and show what asking them again can cost."""
    from ops.rulings.reask import quote  # noqa: PLC0415 - a rollback need not wait for what other commands need

    drawing = Reading.of(section).drawing(site, client, wall_clock_s())
    items = site.buffer(client).items(section.lane)
    found = quote(section, *questions(items, drawing, decision.prompt or "", wanted.count))
    typer.echo(
        f"asking the teacher {len(found.questions)} of {found.of} questions again: {len(found.questions)} calls of the"
        f" budget, ${found.usd_at_most:.4f} at most by the lane's prices; texts are asked as they are kept, redacted",
        err=True,
    )
    return found


def _asked(site: Site, client: redis.Redis, section: LaneSection, quoted: Quote, wanted: Wanted) -> Sample:
    """Ask, once a person has agreed to pay; what came of it is shown."""
    from ops.rulings.reask import ask_again  # noqa: PLC0415 - as above

    if quoted.questions and not wanted.pay:
        typer.confirm("Ask them?", abort=True, err=True)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("asking", total=len(quoted.questions))
        found = ask_again(site, client, section, quoted.questions, seen=lambda: progress.advance(task))
    sample = found.sample
    typer.echo(
        f"{sample.agreed} of {sample.asked} answers are as before: {ratio_of(sample.agreed / sample.asked)}"
        f" [{ratio_of(sample.low)}, {ratio_of(sample.high)}], 95 %; ${found.usd:.4f} were paid",
        err=True,
    )
    changes = Counter(found.differing)
    for (before, now), count in changes.most_common(_SHOWN):
        typer.echo(f"  {before} is {now} now: {count}", err=True)
    for why in found.unanswered[:_SHOWN]:
        typer.echo(f"  not answered: {why}", err=True)
    return sample


def _enough(decision: DraftRuling, wanted: Wanted) -> bool:
    """Whether what the teacher says now is near enough: by the bar that was set, or because a person says so."""
    if decision.sample is None:
        return False
    if wanted.at_least is None:
        return typer.confirm("Accept the older answers?", err=True)
    enough = decision.sample.low >= wanted.at_least
    if not enough:
        least = f"{ratio_of(decision.sample.low)}, the lower end of the interval, is below {ratio_of(wanted.at_least)}"
        typer.echo(f"not accepted: {least}; a larger --sample makes the interval narrower", err=True)
    return enough


def _counted(found: PromptCount | None, *, is_present: bool) -> tuple[object, ...]:
    if found is None:
        return (0, 0, None, None, "present")
    counts = "present" if is_present else "yes" if found.counts else "no: stale"
    return (found.items, found.alone, time_of(found.first_s), time_of(found.last_s), counts)
