"""`understudy backup`: one file with all that an installation cannot make again, while it is at work.

In this order: what gateways keep on disk, versions and moves, then Redis at one instant. What leaves a spool for the
log meanwhile is in both, and counted once by its id; a champion is never newer than the buffer it was made from.
"""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Final

import redis

from ops.backup import archive, places
from ops.backup.records import REDIS, BackupManifest, BackupReport, RedisMode
from ops.backup.redis_part import (
    early_of,
    left_out,
    need_whole_log,
    patterns_of,
    position_of,
    redis_of,
)
from ops.backup.registry import RegistryCopied
from ops.backup.site_files import key_files, settings_files, state_files
from ops.site import Site
from store.copies.records import Key
from store.copies.take import Taken, take
from store.errors import SettingsError, StoreUnavailableError
from store.event import wall_clock_s
from store.registry.signing import SigningKey, read_public
from store.secrets import DataSecret

_TRIES: Final = 5
_NOT_A_SECRET: Final = "backup/which-secret"  # noqa: S105 - a purpose
_ID_BYTES: Final = 8


def backup(site: Site, settings_file: Path, to: str, *, mode: RedisMode, with_keys: bool, force: bool) -> BackupReport:
    """Write a backup of a site.

    Args:
        site: may be at work.
        settings_file: that it was read from.
        to: a path, an address, or `-` for standard output.
        mode: `dump` copies the buffer; `replay` leaves it to be worked out from the log.
        with_keys: copy the keys and the data secret, too.
        force: replace a file that is there.

    Raises:
        RefusedError: there is a file already, or the log cannot bring the buffer back.
        SettingsError: a key that is needed is missing, or the address is of an unknown kind.
        StateUnwritableError, StoreUnavailableError, LogUnavailableError: a disk, Redis or the log does not do its part.
    """
    key = signing_key(site)
    beside = Path(to).absolute().parent if not places.is_address(to) and to != places.STREAM else None
    with (
        redis_of(site) as (reached, client),
        places.writing(to, force=force) as out,
        tempfile.TemporaryDirectory(prefix=".understudy-", dir=beside) as scratch,
    ):
        if mode == "replay":
            need_whole_log(reached, client)
        counted = _Counted(out)
        made_s = wall_clock_s()
        with archive.opened(counted, made_s) as writer:  # type: ignore[arg-type] # a file that is written to, and no more
            copying = _Copying(site=reached, client=client, writer=writer, mode=mode, scratch=Path(scratch))
            members, outside = settings_files(settings_file, site.settings)
            for member, path in members.items():
                writer.add_path(member, path)
            for member, path in key_files(site.settings).items() if with_keys else ():
                writer.add_path(member, path)
            copying.copy_state()
            taken, registry = copying.copy_moving()
            manifest = BackupManifest(
                release=version("understudy"),
                made_s=made_s,
                settings=next(iter(members)),
                log=site.settings.log.kind,
                redis=mode,
                redis_at_s=taken.at_s,
                keys_inside=with_keys,
                secret=secret_id(site.secret),
                trusted=trusted_ids(site.settings.keys.trusted),
                lanes=registry.lanes(),
                positions=copying.positions,
                outside=outside,
                files={},
                problems=registry.problems,
            )
            writer.seal(manifest, key)
    return BackupReport(
        to=to,
        size_bytes=counted.size,
        made_s=made_s,
        redis=mode,
        redis_at_s=taken.at_s,
        redis_keys=taken.keys,
        positions=copying.positions,
        keys_inside=with_keys,
        lanes=manifest.lanes,
        files=len(writer.files),
        problems=registry.problems,
        notes=_notes(manifest),
    )


@dataclass(kw_only=True)
class _Copying:
    """One backup under way."""

    site: Site
    client: redis.Redis
    writer: archive.Writer
    mode: RedisMode
    scratch: Path
    positions: dict[str, str] = field(default_factory=dict)

    def copy_state(self) -> None:
        """Copy what lies in the state directory; a segment of a spool that was sent meanwhile is in the log."""
        for member, path in state_files(self.site.settings.state_dir).items():
            try:
                self.writer.add_path(member, path)
            except FileNotFoundError:
                continue

    def copy_moving(self) -> tuple[Taken, RegistryCopied]:
        """Copy the registry and then Redis, between two looks at a registry that found the same.

        Raises:
            StoreUnavailableError: versions or moves were made during each of some tries.
        """
        registry = RegistryCopied(self.site, self.writer)
        for number in range(_TRIES):
            stand = registry.stand()
            registry.copy()
            with ExitStack() as stack:
                early, found = (
                    stack.enter_context((self.scratch / f"{name}-{number}").open("w+b")) for name in ("early", "keys")
                )
                taken = self._take(early, found)
                if registry.stand() == stand:
                    size = found.tell()
                    found.seek(0)
                    self.writer.add_file(REDIS, found, size)
                    return taken, registry
        message = f"versions or moves were made during each of {_TRIES} tries: `understudy pause`, and try again"
        raise StoreUnavailableError(message)

    def _take(self, early: BinaryIO, found: BinaryIO) -> Taken:
        self.positions = {}
        use_cases = self.site.use_cases
        return take(
            self.client,
            patterns_of(use_cases, self.site.settings.log.kind),
            early=early_of(use_cases, self.mode),
            left_out=left_out(use_cases, self.mode),
            scratch=early,
            out=found,
            seen=self._seen,
        )

    def _seen(self, key: Key) -> None:
        if (at := position_of(key)) is not None:
            self.positions[at[0]] = at[1]


class _Counted:
    """A file that is written to, and how much."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0

    def write(self, data: bytes) -> int:
        """Write on."""
        self.size += len(data)
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""


def signing_key(site: Site) -> SigningKey:
    """The operator's key, else the trainer's: who makes a backup has one of them.

    Raises:
        SettingsError: there is neither.
    """
    try:
        return site.operator_key()
    except SettingsError as missing:
        try:
            return site.trainer_key()
        except SettingsError:
            message = f"a backup is signed, and there is no key to sign with: {missing}"
            raise SettingsError(message) from missing


def secret_id(secret: DataSecret) -> str:
    """What tells whether two data secrets are the same, and nothing else of them."""
    return secret.derive(_NOT_A_SECRET).hex()[: 2 * _ID_BYTES]


def trusted_ids(folder: Path) -> dict[str, str]:
    """The keys of a folder of trusted keys: id -> name."""
    keys = [read_public(path) for path in sorted(folder.glob("*.pub"))]
    return {key.key_id: key.name for key in keys}


def _notes(manifest: BackupManifest) -> list[str]:
    """What has to be kept elsewhere."""
    notes = []
    if manifest.keys_inside:
        notes.append(
            "keys and data secret are IN it: who has this file can sign versions and moves, and read dead letters"
        )
    else:
        notes.append("keys and data secret are not in it: without them nothing of it is of use; keep them apart")
    if manifest.log == "kafka":
        notes.append("the log is Kafka's, and is not in it")
    if manifest.redis == "replay":
        notes.append("the buffer is to be worked out from the log, which must keep all of it until then")
    notes += [
        f"the settings name {place} outside of their folder: put it back there first"
        for place in manifest.outside.values()
    ]
    return notes
