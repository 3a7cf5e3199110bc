"""`understudy labels`: the list of a lane, what its older answers are read as, and rulings about it."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer

from ops.answers.standing import census_of
from ops.cli.options import EPILOG, Config, DryRun, LaneName, Output, Why, need_reason, open_site
from ops.cli.output import Format, emit_json, emit_table
from ops.exits import RefusedError
from ops.rulings.decision import Decided, DraftRuling, sign, told
from ops.rulings.draft import Labels
from ops.sections import LaneSection
from ops.show.values import time_of
from ops.site import Site
from ops.status.shown import label_columns, label_rows
from ops.tasks import TASKS
from store.answers.census import STATES, Census
from store.answers.rulings import Ruling, in_force, rules_of
from store.errors import StoreUnavailableError
from store.event import wall_clock_s

labels = typer.Typer(
    no_args_is_help=True,
    help="Labels of a lane: after the list was edited, how are older answers read?\n\nThe settings hold the list; a"
    " ruling (signed, undoable) tells as what a label that is no longer on it is read."
    " `understudy answers undo NUMBER` takes one back.",
    epilog=EPILOG,
)

Label = Annotated[str, typer.Argument(metavar="LABEL", help="As it is on the list, or was.")]


class LabelShown(msgspec.Struct, frozen=True, kw_only=True):
    """One label."""

    label: str
    on_list: bool
    read_as: str | None  # by a ruling; null: as itself, retired, or not at all
    ruling: int | None  # that tells of it; on the list it sleeps
    retired: bool
    items: dict[str, int]  # state -> kept items; empty while Redis does not answer


class LabelsShown(msgspec.Struct, frozen=True, kw_only=True):
    """The labels of a lane, and the rulings about its older answers."""

    lane: str
    labels: list[LabelShown]
    rulings: list[dict[str, Any]]
    in_force: list[int]


@labels.command("list", epilog=EPILOG)
def list_labels(config: Config = None, lane: LaneName = None, output: Output = Format.table) -> None:
    """List a lane's labels with the items that each has, as what older ones are read, and every ruling.

    Example: understudy labels list --lane acme/support
    """
    site = open_site(config)
    section = _labelled(site, lane)
    rulings, census = site.registry.rulings(section.lane).read(), kept_census(site, section)
    found = _listed(section, census, rulings)
    if output is Format.json:
        emit_json(found)
        return
    states = {one.label: one.items for one in found.labels}
    emit_table(
        [*label_columns(), "on list", "read as"],
        [(*row, one.on_list, _read_as(one)) for row, one in zip(label_rows(states), found.labels, strict=True)],
        title=f"labels of {section.lane}",
    )
    show_rulings(rulings)


@labels.command(epilog=EPILOG)
def add(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="The new one.")],
    config: Config = None,
    lane: LaneName = None,
    output: Output = Format.table,
) -> None:
    """Say what to put in the settings for a label more. Answers that were paid before it stay valid.

    Example: understudy labels add "lost parcel"
    """
    _, found = _labels(config, lane)
    report(found.add(label), output)


@labels.command(epilog=EPILOG)
def rename(
    old: Label,
    new: Annotated[str, typer.Argument(metavar="NAME", help="Its name from now on.")],
    config: Config = None,
    lane: LaneName = None,
    *,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Read the answers of a label under its new name, once the settings have that.

    Example: understudy labels rename refund "money back" --reason "the desk calls it so"
    """
    _rule(config, lane, lambda found: found.rename(old, new), reason, dry_run=dry_run, output=output)


@labels.command(epilog=EPILOG)
def merge(
    old: Annotated[list[str], typer.Argument(metavar="LABEL…", help="One or more, as they are on the list, or were.")],
    into: Annotated[str, typer.Option("--into", metavar="LABEL", help="On the list.")],
    config: Config = None,
    lane: LaneName = None,
    *,
    unlisted: Annotated[
        bool, typer.Option("--unlisted", help="Even where it was never on the list: what another producer calls it.")
    ] = False,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Read the answers of some labels as another one, once the settings list that alone.

    With --unlisted also what never was a label here: answers that came under it are dead letters until ingest is
    restarted and they are replayed.

    Example: understudy labels merge "late" "lost" --into delivery --reason "one team has both"
    """
    _rule(
        config,
        lane,
        lambda found: found.merge(old, into, unlisted=unlisted),
        reason,
        dry_run=dry_run,
        output=output,
    )


@labels.command(epilog=EPILOG)
def retire(
    label: Label,
    config: Config = None,
    lane: LaneName = None,
    *,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Let the answers of a label count no more, once it is off the list in the settings.

    Example: understudy labels retire fax --reason "nobody sends one"
    """
    _rule(config, lane, lambda found: found.retire(label), reason, dry_run=dry_run, output=output)


def report(found: Decided, output: Format) -> None:
    """Say what was decided, and what is to be done with it."""
    if output is Format.json:
        emit_json(found)
        return
    signed = f"ruling {found.ruling}" if found.ruling is not None else "nothing was signed"
    about = found.prompt or (f"{', '.join(found.labels)}{f' -> {found.to}' if found.to else ''}") or found.undoes
    typer.echo(f"{found.lane}: {signed}: {found.kind} {about}: about {found.items} kept items")
    for line in (*found.settings, *found.notes):
        typer.echo(line)


def show_rulings(rulings: list[Ruling]) -> None:
    """Every ruling of a lane, those that are undone too."""
    known = {ruling.number for ruling in in_force(rulings)}
    if rulings:
        emit_table(
            ["ruling", "time", "what", "who", "why", "in force"],
            [(one.number, time_of(one.time_s), told(one), one.who, one.why, one.number in known) for one in rulings],
            title="rulings",
        )


def ruling_json(ruling: Ruling) -> dict[str, Any]:
    """A ruling for programs."""
    return {**msgspec.to_builtins(ruling), "lane": str(ruling.lane)}


def _rule(
    config: Config,
    lane: str | None,
    decide: Callable[[Labels], DraftRuling],
    reason: str,
    *,
    dry_run: bool,
    output: Format,
) -> None:
    need_reason(reason, dry_run=dry_run)
    site, found = _labels(config, lane)
    decision, where = decide(found), found.section.lane
    number = None
    if not dry_run:
        key, chain = site.operator_key(), site.registry.rulings(where)
        now_s, expected = wall_clock_s(), len(found.rulings) + 1
        number = sign(decision, chain, key, why=reason, now_s=now_s, expected=expected).number
    report(decision.shown(str(where), ruling=number, done=not dry_run), output)


def _labels(config: Config, lane: str | None) -> tuple[Site, Labels]:
    site = open_site(config)
    section = _labelled(site, lane)
    rulings = site.registry.rulings(section.lane).read()
    return site, Labels(section=section, census=kept_census(site, section), rulings=rulings)


def _labelled(site: Site, lane: str | None) -> LaneSection:
    """The lane, if its answers are labels."""
    section = site.lane(lane)
    if not TASKS[section.task].has_labels:
        message = f"{section.lane} is a lane of {section.task}: it has no labels"
        raise RefusedError(message)
    return section


def kept_census(site: Site, section: LaneSection) -> Census | None:
    """How the lane's answers stand; None while Redis does not answer: the list and the rulings are known without it."""
    try:
        with site.redis_client() as client:
            return census_of(site, client, section)
    except StoreUnavailableError as error:
        typer.echo(f"not available: {error}", err=True)
        return None


def _listed(section: LaneSection, census: Census | None, rulings: list[Ruling]) -> LabelsShown:
    known = in_force(rulings)
    of_label = {label: ruling for ruling in known for label in ruling.labels}
    kept = {} if census is None else census.labels
    names = dict.fromkeys((*section.labels, *rules_of(rulings).labels, *kept))
    return LabelsShown(
        lane=str(section.lane),
        labels=[
            LabelShown(
                label=name,
                on_list=name in section.labels,
                read_as=of_label[name].to if name in of_label else None,
                ruling=of_label[name].number if name in of_label else None,
                retired=name in of_label and of_label[name].kind == "retire" and name not in section.labels,
                items={state: kept[name].get(state, 0) for state in STATES} if name in kept else {},
            )
            for name in names
        ],
        rulings=[ruling_json(ruling) for ruling in rulings],
        in_force=[ruling.number for ruling in known],
    )


def _read_as(one: LabelShown) -> str:
    if one.ruling is None:
        return "itself" if one.on_list else "nothing: off the list"
    if one.on_list:
        return f"itself: ruling {one.ruling} waits until it is off the list"
    return f"{'retired' if one.retired else one.read_as} (ruling {one.ruling})"
