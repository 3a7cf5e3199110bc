"""What a backup says of itself: `backup.json`, its last member but the signature."""

from typing import Annotated, Final, Literal

import msgspec

from ops.reports import VerifyReport
from store.event import Task
from store.registry.manifest import FileEntry, Sha256

MANIFEST: Final = "backup.json"
SIGNATURE: Final = "backup.sig"
REDIS: Final = "redis/keys"
SITE: Final = "site/"  # settings, and the files they name beside them
OUTSIDE: Final = "site-outside/"  # files that the settings name elsewhere
KEYS: Final = "keys/"
REGISTRY: Final = "registry/"
STATE: Final = "state/"
PURPOSE: Final = b"understudy/backup/1\n"  # signed before the bytes
FORMAT: Final = 1

RedisMode = Literal["dump", "replay"]


class LaneCopied(msgspec.Struct, frozen=True, kw_only=True):
    """One lane of a backup."""

    lane: str
    task: Task
    champion: str | None
    versions: list[str]
    moves: int
    rulings: int
    chain_sha256: Sha256 | None  # of the newest move's file; None: there is none


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True, rename={"schema_version": "schema"}):
    """What was copied, when and by whom."""

    schema_version: Annotated[int, msgspec.Meta(ge=1)] = FORMAT
    release: str  # of Understudy
    made_s: float  # Unix seconds
    settings: str  # the member that holds the settings file
    log: Literal["embedded", "kafka"]  # embedded: it lies in Redis, and is in the backup
    redis: RedisMode
    redis_at_s: float  # the instant of the copy of Redis, by its clock
    keys_inside: bool
    secret: str  # by which one tells whether a data secret is this installation's; it cannot be told from it
    trusted: dict[str, str]  # key id -> name
    lanes: list[LaneCopied]
    positions: dict[str, str]  # "topic uuid/partition" -> up to where the log had been applied at that instant
    outside: dict[str, str]  # member -> where the settings look for it
    files: dict[str, FileEntry]  # every member but this and the signature
    problems: list[str] = []  # what could not be copied, for a person


class BackupReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `backup` answers."""

    to: str
    size_bytes: int
    made_s: float
    redis: RedisMode
    redis_at_s: float
    redis_keys: int
    positions: dict[str, str]
    keys_inside: bool
    lanes: list[LaneCopied]
    files: int
    problems: list[str]
    notes: list[str]  # what is not in it and has to be kept elsewhere, a sentence each


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `restore` answers."""

    source: str
    release: str  # that made the backup
    made_s: float
    settings: str  # the file that is used from now on
    state_dir: str
    registry: str
    lanes: list[LaneCopied]
    redis: RedisMode
    redis_keys: int
    signed_by: str | None  # None: by a key that is not trusted here, because it came with the backup
    moved_aside: list[str]  # what was there before, with --force
    done: bool  # false: only looked at
    verified: VerifyReport | None = None  # None: not looked at; the notes say why
    notes: list[str] = []
