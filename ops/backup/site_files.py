"""The files of an installation beside registry and Redis: settings and what they name, keys, what a gateway keeps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from ops.backup.records import KEYS, OUTSIDE, SITE, STATE
from ops.settings import Settings
from store.registry.signing import PUBLIC_SUFFIX, public_path

_KEPT: Final = (  # in state_dir, beside registry and Redis: what else lies there is made again
    *("run/spent-*.json", "run/tally-*.json", "run/swaps.jsonl", "run/cycles.jsonl"),
    *("spool/*.spool", "catalogue/*/*/*.safetensors", "reports/*/*/*.json"),
)
_SECRET_SETTINGS: Final = frozenset({"ssl_key_file"})
_KEY_NAMES: Final = ("trainer", "operator", "data_secret")


def settings_files(file: Path, settings: Settings) -> tuple[dict[str, Path], dict[str, str]]:
    """The settings file and those it names: members with where they lie; those outside of its folder with their place.

    Private keys of certificates are left out, and so are folders: models are not ours.
    """
    folder = file.absolute().parent
    members, outside = {f"{SITE}{file.name}": file}, dict[str, str]()
    for number, path in enumerate(sorted({*_named(settings)})):
        if path.is_relative_to(folder):
            members[f"{SITE}{path.relative_to(folder).as_posix()}"] = path
        else:
            member = f"{OUTSIDE}{number}-{path.name}"
            members[member], outside[member] = path, str(path)
    return members, outside


def _named(section: BaseModel) -> Iterator[Path]:
    for name in type(section).model_fields:
        value: Any = getattr(section, name)
        if isinstance(section, Settings) and name == "keys":
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, BaseModel):
                yield from _named(one)
            elif isinstance(one, Path) and one.is_file() and name not in _SECRET_SETTINGS:
                yield one


def key_files(settings: Settings) -> dict[str, Path]:
    """Members for the keys, and where each lies or is to lie; a private key that is not here is left out."""
    found = {f"{KEYS}trusted/{path.name}": path for path in sorted(settings.keys.trusted.glob(f"*{PUBLIC_SUFFIX}"))}
    for name in _KEY_NAMES:
        path: Path = getattr(settings.keys, name)
        for member, one in ((name, path), (f"{name}{PUBLIC_SUFFIX}", public_path(path))):
            if one.is_file():
                found[f"{KEYS}{member}"] = one
    return found


def key_place(settings: Settings, member: str) -> Path:
    """Where the settings look for a key of a backup."""
    name = member.removeprefix(KEYS)
    if name.startswith("trusted/"):
        return settings.keys.trusted / name.removeprefix("trusted/")
    path: Path = getattr(settings.keys, name.removesuffix(PUBLIC_SUFFIX))
    return public_path(path) if name.endswith(PUBLIC_SUFFIX) else path


def state_files(state_dir: Path) -> dict[str, Path]:
    """Members for what a gateway and a trainer keep in their state directory, and cannot be made again."""
    paths = [path for pattern in _KEPT for path in sorted(state_dir.glob(pattern))]
    return {f"{STATE}{path.relative_to(state_dir).as_posix()}": path for path in paths if path.is_file()}
