"""`understudy buffer`: look at what is kept, copy it, and work it out anew from the log."""

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console

from ops.answers.kept import ItemShown, LaneItems
from ops.cli.answers.selecting import Selecting
from ops.cli.options import EPILOG, Config, DryRun, LaneName, Output, Why, at_the_terminal, need_reason, open_site
from ops.cli.output import Format, emit_fields, emit_json, emit_table
from ops.cli.signature import takes
from ops.exits import FAILED_CHECK
from ops.kept.export import STDOUT, FileFormat, export
from ops.kept.stats import BufferStats, stats_of
from ops.reports import Rebuilt
from ops.show.values import time_of
from ops.status.shown import label_columns, label_rows
from store.event import wall_clock_s
from trainer.snapshot import Split

buffer = typer.Typer(no_args_is_help=True, help="The replay buffer: what is kept of the log.", epilog=EPILOG)
_SPLITS: Final[tuple[Split, ...]] = ("train", "calibrate", "judge")
_WIDE: Final = 60  # characters of a question or an answer in a table


class ItemsShown(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a lane's items."""

    lane: str
    total: int  # that were meant
    items: list[ItemShown]  # the newest of them, newest first


@buffer.command("show", epilog=EPILOG)
@takes(Selecting)
def show(
    selecting: Selecting,
    config: Config = None,
    lane: LaneName = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many, by when they were last asked.")] = 20,
    output: Output = Format.table,
) -> None:
    """Show kept questions: what was asked and answered, redacted as it is kept, and as what it is read today.

    One that is named by its id is shown whole; else there is a table.

    Example: understudy buffer show --state off_list --limit 50
    """
    site = open_site(config)
    section = site.lane(lane)
    selection = selecting.selection(site, section)
    with site.redis_client() as client:
        items = LaneItems.of(site, client, section, wall_clock_s())
        chosen = sorted(items.chosen(selection), key=lambda one: (-one.item.last_asked_s, one.item.item_id))
    ruled_by = items.ruled_by()
    shown = [items.shown(one, ruled_by) for one in chosen[:limit]]
    found = ItemsShown(lane=str(section.lane), total=len(chosen), items=shown)
    if output is Format.json:
        emit_json(found)
    elif selection.ids:
        for one in found.items:
            _show_item(one)
    else:
        _show_items(found)


@buffer.command("stats", epilog=EPILOG)
def stats(config: Config = None, lane: LaneName = None, output: Output = Format.table) -> None:
    """Say what a lane's buffer holds, by state, label and prompt version, and what of it the next cycle learns from.

    Example: understudy buffer stats --lane acme/support -o json
    """
    site = open_site(config)
    with site.redis_client() as client:
        found = [stats_of(site, client, section, wall_clock_s()) for section in site.lanes(lane)]
    if output is Format.json:
        emit_json(found)
        return
    for one in found:
        _show_stats(one)


@buffer.command("export", epilog=EPILOG)
@takes(Selecting)
def export_items(
    selecting: Selecting,
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE", help="A file that is not there yet; - is standard output.")
    ],
    config: Config = None,
    lane: LaneName = None,
    file_format: Annotated[
        FileFormat | None,
        typer.Option(
            "--format", help="Else by the file's ending. Parquet needs the extra of that name.", show_default=False
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT", help=f"Of this alone; more than once for several: {', '.join(_SPLITS)}."),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Copy a lane's kept questions and answers, redacted as they are kept, into a JSONL or a Parquet file.

    Each row names the split that the next cycle holds it in: train elsewhere on `train` alone, or what you compare will
    have seen its judges. Such a file, with answers that you have changed, is what `answers correct --file` takes.

    Example: understudy buffer export --to support.jsonl --split train
    """
    if unknown := [one for one in split or () if one not in _SPLITS]:
        message = f"{unknown[0]}: there is {', '.join(_SPLITS)}"
        raise typer.BadParameter(message, param_hint="--split")
    if to == STDOUT and output is Format.json:
        message = "the rows go to standard output, and so would the report: name a file"
        raise typer.BadParameter(message, param_hint="--to")
    site = open_site(config)
    section = site.lane(lane)
    with site.redis_client() as client, Console(stderr=True).status("reading the buffer"):
        found = export(
            site,
            client,
            section,
            selecting.selection(site, section),
            path=to,
            file_format=file_format or ("parquet" if to.suffix == ".parquet" else "jsonl"),
            splits=[one for one in _SPLITS if one in (split or ())],
            now_s=wall_clock_s(),
        )
    if output is Format.json:
        emit_json(found)
        return
    splits = ", ".join(f"{name}: {rows:,}" for name, rows in sorted(found.splits.items()))
    typer.echo(f"{found.lane}: {found.rows:,} rows to {found.path} ({splits or 'none is meant'})", err=True)


@buffer.command("rebuild", epilog=EPILOG)
def rebuild(
    config: Config = None,
    lane: LaneName = None,
    *,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole", help="Work out every item anew also where the log's beginning is gone: what it lacks is lost."
        ),
    ] = False,
    dry_run: DryRun = False,
    reason: Why = "",
    output: Output = Format.table,
) -> None:
    """Mend the buffer from the log, in one step, while ingest is at work.

    Where the log is whole, everything is worked out anew; where its beginning is gone, what is damaged is. Exit code 1
    where the log no longer has all that is needed.

    Example: understudy buffer rebuild --lane acme/support --reason "a damaged item"
    """
    from ops.repair.command import rebuild_site  # noqa: PLC0415 - the log's client, which no other command here needs

    need_reason(reason, dry_run=dry_run)
    site = open_site(config)
    lanes = [section.lane for section in site.lanes(lane)]
    with Console(stderr=True).status("reading the log"):
        found = rebuild_site(site, lanes, whole=whole, dry_run=dry_run, who=at_the_terminal(), why=reason)
    if output is Format.json:
        emit_json(found)
    else:
        _show_rebuilt(found)
    if any(report.lost for report in found):
        raise typer.Exit(FAILED_CHECK)


def _show_items(found: ItemsShown) -> None:
    rows = [
        (
            one.item[:12],
            time_of(one.last_asked_s),
            one.asked,
            f"{one.state} (ruling {one.ruling})" if one.ruling else one.state,
            one.label,
            _short(_asked(one)),
            _short(_plain(one.answers[0].answer)) if one.answers else None,
        )
        for one in found.items
    ]
    emit_table(
        ["item", "last asked", "times", "state", "label", "question", "answer"], rows, title=f"items of {found.lane}"
    )
    if found.total > len(rows):
        typer.echo(f"{found.total:,} are meant; --limit shows more")


def _show_item(one: ItemShown) -> None:
    emit_fields(
        {
            "state": f"{one.state} (ruling {one.ruling})" if one.ruling else one.state,
            "label": one.label,
            "asked": f"{one.asked} times, {time_of(one.first_asked_s)} to {time_of(one.last_asked_s)}",
            "stands for": f"{one.requests:g} requests",
            "question": _asked(one),
            "is read as": " / ".join(f"{_plain(each.answer)} ({each.times})" for each in one.answers) or "nothing",
            **{
                f"under {prompt}": " / ".join(f"{_plain(each.answer)} ({each.times})" for each in said)
                for prompt, said in one.said.items()
            },
            "student said first": one.student,
        },
        title=one.item,
    )


def _show_stats(one: BufferStats) -> None:
    times = [time_of(at_s) for at_s in (one.first_asked_s, one.last_asked_s) if at_s is not None]
    emit_fields(
        {
            "items": f"{one.items:,}, {one.stored_bytes / (1 << 20):.1f} MiB in Redis",
            "asked": f"{one.asked:,} times, for {one.requests:,.0f} requests"
            + (f", {' to '.join(times)}" if times else ""),
            "contradict themselves": one.conflicted,
            "corrected by a person": one.corrected,
            "ruled, and not kept now": one.ruled_gone,
            "ever": f"{one.counted:,} events, {one.items_ever:,} items, {one.evicted:,} evicted, {one.repeats:,}"
            f" repeats, {one.ineligible:,} not to be learned from",
            "damaged": len(one.damaged),
        },
        title=f"{one.lane} ({one.task})",
    )
    emit_table(label_columns(), label_rows(one.labels))
    emit_table(["prompt version", "items"], list(one.prompts.items()))


def _asked(one: ItemShown) -> str:
    """The question as its own JSON; a text by itself."""
    parts = msgspec.to_builtins(one.input)
    return (
        str(next(iter(parts.values())))
        if len(parts) == 1 and isinstance(next(iter(parts.values())), str)
        else _plain(parts)
    )


def _plain(answer: object) -> str:
    return answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()


def _short(text: str) -> str:
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 1]}…"


def _show_rebuilt(found: list[Rebuilt]) -> None:
    rows = [
        (
            one.lane,
            one.records,
            "whole" if one.complete else "its beginning is gone",
            len(one.damaged),
            one.mended,
            f"{one.items_before} -> {one.items_after}",
            "rebuilt" if one.done else "would be rebuilt",
        )
        for one in found
    ]
    emit_table(["lane", "records", "log", "damaged", "written", "items", ""], rows)
    for one in found:
        for name in one.lost:
            typer.echo(f"{one.lane}: of {name} the log has no record any more: it is lost", err=True)
        if one.dropped:
            named = ", ".join(f"{label}: {items}" for label, items in sorted(one.dropped.items()))
            go = "went" if one.done else "would go"
            typer.echo(
                f"{one.lane}: {sum(one.dropped.values())} items {go}: their labels are off the list and no ruling tells"
                f" of them ({named}). After `understudy labels rename`, `merge` or `retire` they stay",
                err=True,
            )
