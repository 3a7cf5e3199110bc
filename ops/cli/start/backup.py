"""Commands that make a backup of an installation, and an installation of a backup."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from ops.cli.data import show_verified
from ops.cli.options import EPILOG, Config, DryRun, Output, at_the_terminal, open_site
from ops.cli.output import Format, emit_fields, emit_json, emit_table
from ops.exits import FAILED_CHECK
from ops.show.values import time_of
from ops.state.private_files import write_for_owner_alone

app = typer.Typer()
_MIB = 1 << 20
_TO_STANDARD_OUTPUT = "-"


class RedisPart(StrEnum):
    """How Redis is copied."""

    dump = "dump"
    replay = "replay"


@app.command(epilog=EPILOG)
def backup(
    to: Annotated[
        str,
        typer.Argument(
            metavar="FILE|URL|-",
            help="A file, an address that fsspec knows (s3://, with the extra `s3`), or - for standard output.",
        ),
    ],
    config: Config = None,
    redis: Annotated[
        RedisPart,
        typer.Option(
            help="dump: the buffer as it is. replay: what the log cannot bring back alone; restoring works the rest out"
            " from the log, which must have all of it, now and then.",
        ),
    ] = RedisPart.dump,
    *,
    with_keys: Annotated[
        bool,
        typer.Option("--with-keys", help="Copy keys and data secret, too: who has the file can then sign and read."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    output: Output = Format.table,
) -> None:
    """Write all that cannot be made again into one signed file, while everything is at work.

    That is settings, versions, moves and rulings, what lies in Redis at one instant (the embedded log is part of it),
    spools, books and catalogues; not models that the settings name. It holds your clients' API keys where the settings
    do: keep it as you keep those. Exit code 1 where something was damaged and left out.

    Example: understudy backup /var/backups/understudy.tar.zst
    """
    from ops.backup.taking import backup as take  # noqa: PLC0415 - a rollback need not wait for what others need
    from ops.settings import settings_file  # noqa: PLC0415 - as above

    site = open_site(config)
    with Console(stderr=True).status("copying"):
        report = take(site, settings_file(config), to, mode=redis.value, with_keys=with_keys, force=force)
    if to == _TO_STANDARD_OUTPUT:
        typer.echo(
            f"{report.size_bytes:,} bytes, {len(report.lanes)} lanes, {report.redis_keys} keys of Redis", err=True
        )
    elif output is Format.json:
        emit_json(report)
    else:
        emit_fields(
            {
                "size": f"{report.size_bytes / _MIB:,.1f} MiB, {report.files} files",
                "Redis": f"{report.redis_keys} keys, as of {time_of(report.redis_at_s)} ({report.redis})",
            },
            title=report.to,
        )
        rows = [(one.lane, one.task, one.champion, len(one.versions), one.moves, one.rulings) for one in report.lanes]
        emit_table(["lane", "task", "champion", "versions", "moves", "rulings"], rows)
    for note in report.notes:
        typer.secho(f"note: {note}", err=True, fg="red" if with_keys and "keys" in note else None)
    for problem in report.problems:
        typer.echo(problem, err=True)
    if report.problems:
        raise typer.Exit(FAILED_CHECK)


@app.command(epilog=EPILOG)
def restore(
    source: Annotated[str, typer.Argument(metavar="FILE|URL|-", help="As `backup` wrote it; - reads standard input.")],
    config: Config = None,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Move aside what is there already; nothing is deleted.")
    ] = False,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Make an installation again from a backup, on an empty machine, and verify it.

    Where there is no settings file, the backup's is put there, with prompts and lists beside it. Everything is checked
    before anything is written, and while it is half done no process starts: killed, run it again. Ends with 1 where the
    backup is damaged or `verify` finds fault, with 2 and a list where keys are missing that the backup does not hold,
    and with 4 where something is there already.

    Example: understudy restore /var/backups/understudy.tar.zst --config /etc/understudy/understudy.toml
    """
    from ops.backup.restoring import restore as put  # noqa: PLC0415 - as above
    from ops.settings import settings_file  # noqa: PLC0415 - as above

    write_for_owner_alone()
    with Console(stderr=True).status("reading the backup"):
        report = put(source, settings_file(config), force=force, dry_run=dry_run, who=at_the_terminal())
    if output is Format.json:
        emit_json(report)
    else:
        emit_fields(
            {
                "made": f"{time_of(report.made_s)} by release {report.release}",
                "signed by": report.signed_by or "a key that came with it",
                "settings": report.settings,
                "state": report.state_dir,
                "versions and moves": report.registry,
                "Redis": f"{report.redis_keys} keys ({report.redis})" if report.done else report.redis,
            },
            title="restored" if report.done else "would be restored",
        )
        rows = [(one.lane, one.task, one.champion, len(one.versions), one.moves, one.rulings) for one in report.lanes]
        emit_table(["lane", "task", "champion", "versions", "moves", "rulings"], rows)
        if report.verified is not None:
            show_verified(report.verified)
    for one in report.moved_aside:
        typer.echo(f"moved aside: {one}", err=True)
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    if report.verified is not None and not report.verified.ok:
        raise typer.Exit(FAILED_CHECK)
