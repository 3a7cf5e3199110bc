"""`understudy restore`: an installation as it was, on an empty machine.

Everything is unpacked, checked and staged before anything gets its place. From then on a note in `state_dir` says which
backup it is, until all of it is there, and no process of ours starts meanwhile: after a kill a restore of the same
backup goes on.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from ops.backup import archive, places
from ops.backup.believed import Believed, believe
from ops.backup.putting import Target
from ops.backup.records import RestoreReport
from ops.backup.redis_part import redis_of
from ops.checks.verify import verify_site
from ops.exits import RefusedError
from ops.processes.process import exclusive
from ops.repair.command import rebuild_site
from ops.reports import VerifyReport
from ops.settings import Settings, rebased
from ops.site import Site
from ops.state.restoring import HalfRestored, half_restored, note_restore
from store.errors import LogError, RegistryError, StateUnwritableError
from store.event import wall_clock_s
from store.registry.files.durable import clear_away, make_folder

_STAGE: Final = ".unpacked-backup"
_DAEMONS: Final = ("all", "serve", "ingest", "train")


def restore(source: str, settings_file: Path, *, force: bool, dry_run: bool, who: str) -> RestoreReport:
    """Restore a backup.

    Args:
        source: a path, an address, or `-` for standard input.
        settings_file: whose installation; where it is missing, the backup's settings are put there.
        force: move aside what is there.
        dry_run: look at everything, and change nothing.
        who: restores, for what is noted of a rebuild.

    Raises:
        DamagedCopyError: the backup is damaged, cut short, of a later format, or none.
        SettingsError: there is no such backup; or keys or files that it does not hold are missing, and all are named.
        BadSignatureError: nobody who is trusted here has signed it.
        RefusedError: something is there already, or the settings lack one of its lanes.
        AlreadyRunningError: a process of ours is at work here.
        StateUnwritableError, StoreUnavailableError: the disk or Redis does not do its part.
    """
    here = Settings.load(settings_file) if settings_file.exists() else None
    with _stage(here, settings_file, dry_run=dry_run) as stage, places.reading(source) as file:
        unpacked = archive.unpack(file, stage)
        settings = here or _settings_of(unpacked, settings_file)
        believed = believe(unpacked, settings, settings_file)
        if dry_run:
            return _report(source, unpacked, settings, settings_file, believed)
        return _restore(source, unpacked, settings, settings_file, believed, force=force, who=who)


@contextmanager
def _stage(here: Settings | None, settings_file: Path, *, dry_run: bool) -> Iterator[Path]:
    """An empty folder to unpack in, on the disk that the state will lie on where that is known."""
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="understudy-") as found:
            yield Path(found)
        return
    folder = (here.state_dir if here else settings_file.absolute().parent) / _STAGE
    try:
        clear_away(folder)  # of one that was killed
        make_folder(folder, mode=0o700)
        yield folder
    except OSError as error:
        message = f"{error.filename or folder}: {error.strerror}; nothing is half restored that a second try would mind"
        raise StateUnwritableError(message) from error
    finally:
        clear_away(folder)


def _settings_of(unpacked: archive.Unpacked, settings_file: Path) -> Settings:
    """The backup's settings, as if they lay at the settings file."""
    staged = unpacked.path(unpacked.manifest.settings)
    return rebased(Settings.load(staged), staged.absolute().parent, settings_file.absolute().parent)


def _restore(
    source: str,
    unpacked: archive.Unpacked,
    settings: Settings,
    settings_file: Path,
    believed: Believed,
    *,
    force: bool,
    who: str,
) -> RestoreReport:
    backup = sha256(unpacked.signed).hexdigest()
    state_dir = settings.state_dir
    before = half_restored(state_dir)
    going_on = before is not None and before.backup == backup
    if before is not None and not going_on and not force:
        message = f"the restore of another backup into {state_dir} was not finished: finish that one, or --force"
        raise RefusedError(message)
    with ExitStack() as stack:
        for name in _DAEMONS:
            stack.enter_context(exclusive(Site(settings).run_directory, name, patience_s=0.0))
        site, client = stack.enter_context(redis_of(Site(settings)))
        target = Target(unpacked=unpacked, site=site, client=client, settings_file=settings_file)
        stack.callback(target.clear)
        there = target.there()
        if there and not going_on and not force:
            message = f"something is there already: {'; '.join(there)}. --force moves it aside"
            raise RefusedError(message)
        target.stage()
        note = before if going_on and before else HalfRestored(backup=backup, phase="aside", stamp=_stamp())
        again, moved = note.phase == "place", list[str]()
        if not again:
            note_restore(state_dir, note)
            moved = target.move_aside(note.stamp)
            note_restore(state_dir, HalfRestored(backup=backup, phase="place", stamp=note.stamp))
        target.place(believed, again=again)
        if unpacked.manifest.redis == "replay":
            lanes = [section.lane for section in site.settings.lanes]
            rebuild_site(site, lanes, whole=True, dry_run=False, who=who, why=f"restored from {source}")
        for use_case in site.use_cases:
            with suppress(RegistryError):  # `verify` says why
                site.deciding(client, use_case).put_right()  # what was under way while the backup was made
        note_restore(state_dir, None)
        verified, why_not = _verified(site)
    report = _report(source, unpacked, settings, settings_file, believed)
    return msgspec.structs.replace(
        report,
        redis_keys=target.keys,
        moved_aside=moved,
        done=True,
        verified=verified,
        notes=[*report.notes, *why_not],
    )


def _verified(site: Site) -> tuple[VerifyReport | None, list[str]]:
    """What `verify` says; why it says nothing, where the log is away."""
    try:
        return verify_site(site, [section.lane for section in site.settings.lanes]), []
    except LogError as error:
        return None, [f"not verified: {error}; run `understudy verify` once it is back"]


def _report(
    source: str, unpacked: archive.Unpacked, settings: Settings, settings_file: Path, believed: Believed
) -> RestoreReport:
    """What is to be restored."""
    manifest, site = unpacked.manifest, Site(settings)
    return RestoreReport(
        source=source,
        release=manifest.release,
        made_s=manifest.made_s,
        settings=str(settings_file),
        state_dir=str(settings.state_dir),
        registry=str(site.registry_root),
        lanes=manifest.lanes,
        redis=manifest.redis,
        redis_keys=0,
        signed_by=believed.signed_by,
        moved_aside=[],
        done=False,
        notes=[*_of_a_later_release(manifest.release), *believed.notes, *manifest.problems],
    )


def _of_a_later_release(made_by: str) -> list[str]:
    """What to know of a backup that a later release has made."""
    ours = version("understudy")
    if _numbers(made_by) <= _numbers(ours):
        return []
    return [f"made by release {made_by}, later than this one ({ours}), which may not read all that was stored"]


def _numbers(release: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", release)]


def _stamp() -> str:
    """By which what is moved aside is found again."""
    return datetime.fromtimestamp(wall_clock_s(), UTC).strftime("%Y%m%dT%H%M%SZ")
