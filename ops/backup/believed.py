"""Is a backup to be believed, and does it fit an installation? What is missing is named before anything is written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ops.backup.archive import Unpacked
from ops.backup.records import KEYS, PURPOSE, SITE
from ops.backup.site_files import key_place
from ops.backup.taking import secret_id, trusted_ids
from ops.exits import RefusedError
from ops.settings import Settings
from store.errors import SettingsError
from store.registry.signing import PUBLIC_SUFFIX, TrustedKeys
from store.secrets import DataSecret

_SECRET: Final = f"{KEYS}data_secret"
_TRUSTED: Final = f"{KEYS}trusted/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """What was made sure of."""

    signed_by: str | None  # None: by a key that came with the backup
    files: dict[str, Path]  # members of settings and keys that are not there yet -> where they go
    notes: list[str] = field(default_factory=list)


def believe(unpacked: Unpacked, settings: Settings, settings_file: Path) -> Believed:
    """See that a backup is signed, fits the lanes, and that keys and files are here or in it.

    Raises:
        SettingsError: keys or files are missing, or the data secret is another one; the message names all.
        BadSignatureError: nobody who is trusted here has signed it.
        RefusedError: the settings lack a lane, or another key lies where one of the backup's would.
    """
    notes: list[str] = []
    _same_lanes(unpacked, settings)
    files = _site_files(unpacked, settings_file, notes) | _key_files(unpacked, settings)
    _secret_fits(unpacked, settings)
    trusted = _trusted(unpacked, settings)
    signed_by = trusted.verify(PURPOSE + unpacked.signed, unpacked.signature)
    if any(member.startswith(_TRUSTED) for member in files) and not any(
        settings.keys.trusted.glob(f"*{PUBLIC_SUFFIX}")
    ):
        notes.append(
            f"signed by {signed_by}, whose key came with the backup itself: only whoever brought it vouches for it"
        )
        return Believed(signed_by=None, files=files, notes=notes)
    for key_id, name in sorted(unpacked.manifest.trusted.items()):
        if key_id not in trusted_ids(settings.keys.trusted) and f"{_TRUSTED}{name}{PUBLIC_SUFFIX}" not in files:
            notes.append(f"key {name} ({key_id}) is not trusted here: what it signed does not verify")
    for name, path in (("trainer", settings.keys.trainer), ("operator", settings.keys.operator)):
        if not path.is_file() and f"{KEYS}{name}" not in files:
            notes.append(f"keys.{name}: {path} is not here: put it back before that process or person needs it")
    return Believed(signed_by=signed_by, files=files, notes=notes)


def _same_lanes(unpacked: Unpacked, settings: Settings) -> None:
    here = {str(section.lane): section.task for section in settings.lanes}
    lacking = [f"{one.lane} ({one.task})" for one in unpacked.manifest.lanes if here.get(one.lane) != one.task]
    if lacking:
        message = (
            f"the settings lack what the backup has: {', '.join(lacking)}. Put that into them, or restore where there"
            " is no settings file: the backup's own is used then"
        )
        raise RefusedError(message)


def _site_files(unpacked: Unpacked, settings_file: Path, notes: list[str]) -> dict[str, Path]:
    """Of settings, prompts and lists, those that are not here; what is here stays as it is."""
    missing = [
        f"{place} (in the backup it is {member})"
        for member, place in unpacked.manifest.outside.items()
        if not Path(place).exists()
    ]
    if missing:
        message = (
            "the settings name files outside of their folder: put these there first: "
            f"{', '.join(missing)}. `tar --zstd -xOf BACKUP MEMBER` prints one"
        )
        raise SettingsError(message)
    files: dict[str, Path] = {}
    for member in unpacked.members(SITE):
        place = settings_file.absolute().parent / member.removeprefix(SITE)
        place = settings_file if member == unpacked.manifest.settings else place
        if not place.exists():
            files[member] = place
        elif place.read_bytes() != unpacked.path(member).read_bytes():
            notes.append(f"{place} is another than the backup's, and stays as it is")
    return files


def _key_files(unpacked: Unpacked, settings: Settings) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for member in unpacked.members(KEYS):
        place = key_place(settings, member)
        if not place.exists():
            files[member] = place
        elif place.read_bytes() != unpacked.path(member).read_bytes():
            message = (
                f"{place} is another key than the backup's: no key is ever replaced. Move it away if that is meant"
            )
            raise RefusedError(message)
    return files


def _secret_fits(unpacked: Unpacked, settings: Settings) -> None:
    """See that the data secret is the one that every item's id was made with."""
    here, manifest = settings.keys.data_secret, unpacked.manifest
    if (not here.exists() and _SECRET not in manifest.files) or not _has_trusted(unpacked, settings):
        names = ", ".join(f"{name} ({key_id})" for key_id, name in sorted(manifest.trusted.items()))
        message = (
            "the backup holds no keys. Put back first, from where you keep them: "
            f"the data secret {manifest.secret} as {here}; the public keys {names} in {settings.keys.trusted}; and the "
            f"private keys of the trainer and of the operator as {settings.keys.trainer} and {settings.keys.operator}"
        )
        raise SettingsError(message)
    secret = DataSecret.load(here if here.exists() else unpacked.path(_SECRET))
    if (found := secret_id(secret)) != manifest.secret:
        message = (
            f"keys.data_secret: {here} is secret {found}, the backup was made with {manifest.secret}: every item would"
            " be unknown. Put that one there"
        )
        raise SettingsError(message)


def _has_trusted(unpacked: Unpacked, settings: Settings) -> bool:
    return any(settings.keys.trusted.glob(f"*{PUBLIC_SUFFIX}")) or bool(unpacked.members(_TRUSTED))


def _trusted(unpacked: Unpacked, settings: Settings) -> TrustedKeys:
    """The keys that are trusted here; where there are none yet, those that come with the backup."""
    here = settings.keys.trusted
    return TrustedKeys.load(here if any(here.glob(f"*{PUBLIC_SUFFIX}")) else unpacked.path(_TRUSTED.rstrip("/")))
