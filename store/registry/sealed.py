"""What may lie in a version's folder, and how it is read: its manifest and signature in one spelling, or refused."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from store.errors import BadSignatureError, CorruptVersionError, RegistryError
from store.registry.files.blobs import is_intact, read_verified
from store.registry.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest, canonical_json
from store.registry.signing import Signature
from store.registry.students.earlier import todays

PURPOSE: Final = b"understudy/manifest/1\n"  # signed before the manifest's bytes
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_FILE_NAME: Final = re.compile(rf"({_PART}/)*{_PART}\.(json|safetensors)")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVersion:
    """A version whose signature was verified; what is read from it is hashed as it is read."""

    id: str
    manifest: Manifest
    signed: bytes  # the manifest's own bytes, in the shape of the release that wrote it
    signed_by: str  # name of the trusted key
    folder: Path
    _read: set[str] = field(default_factory=set, repr=False, compare=False)  # files that were

    @property
    def files(self) -> Mapping[str, bytes]:
        """Every file by name, read and verified when it is asked for."""
        return _VerifiedFiles(self)

    def read(self, name: str) -> bytes:
        """The bytes of one file: exactly those that were hashed.

        Raises:
            CorruptVersionError: the version has no such file, or it is not what the manifest says.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            message = f"version {self.id} has no file {name!r}"
            raise CorruptVersionError(message)
        try:
            data = read_verified(self.path(name), entry)
        except FileNotFoundError:
            data = None
        if data is None:
            raise CorruptVersionError(differs(self.id, name))
        self._read.add(name)
        return data

    def verify_rest(self) -> None:
        """Hash the files that were not read.

        Raises:
            CorruptVersionError: one is not what the manifest says.
        """
        for name, entry in self.manifest.files.items():
            if name in self._read:
                continue
            try:
                intact = is_intact(self.path(name), entry)
            except FileNotFoundError:
                intact = False
            if not intact:
                raise CorruptVersionError(differs(self.id, name))

    def path(self, name: str) -> Path:
        """Where a file lies; `read` verifies what it returns."""
        return self.folder / name


class _VerifiedFiles(Mapping[str, bytes]):
    def __init__(self, version: OpenVersion) -> None:
        self._version = version

    def __getitem__(self, name: str) -> bytes:
        if name not in self._version.manifest.files:
            raise KeyError(name)
        return self._version.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._version.manifest.files  # the inherited one would read the file

    def __iter__(self) -> Iterator[str]:
        return iter(self._version.manifest.files)

    def __len__(self) -> int:
        return len(self._version.manifest.files)


def decode_manifest(data: bytes) -> Manifest:
    """The manifest in these bytes; another spelling of it would be a second id for the same version.

    Raises:
        CorruptVersionError: it is none, not canonical, or names a file that must not be in a version.
    """
    try:
        raw = msgspec.json.decode(data, type=dict[str, Any])
        manifest = msgspec.convert(todays(raw), type=Manifest)
        canonical = canonical_json(raw) == data
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"not a manifest that this release reads: {error}"
        raise CorruptVersionError(message) from error
    odd = [name for name in manifest.files if _FILE_NAME.fullmatch(name) is None or name == MANIFEST_NAME]
    if not canonical or odd:
        message = f"manifest names the file {odd[0]!r}" if odd else "manifest is not canonical JSON"
        raise CorruptVersionError(message)
    return manifest


def decode_signature(version: str, data: bytes) -> Signature:
    """The content of a version's signature file.

    Raises:
        BadSignatureError: it is none, or not canonical.
    """
    try:
        signature = msgspec.json.decode(data, type=Signature)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"version {version}: {SIGNATURE_NAME} is not a signature: {error}"
        raise BadSignatureError(message) from error
    if canonical_json(signature) != data:
        message = f"version {version}: {SIGNATURE_NAME} is not canonical JSON"
        raise BadSignatureError(message)
    return signature


def names_in(folder: Path) -> Iterator[str]:
    """Everything in a folder that is not itself a folder, links included, as paths relative to it."""
    for base, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(base) / name).is_symlink()]
        for name in [*files, *links]:
            yield (Path(base) / name).relative_to(folder).as_posix()


def files_of_draft(draft: Path) -> dict[str, Path]:
    """What a draft would bring into a version, by name; an older manifest and signature are left out.

    Raises:
        RegistryError: something else than plain .json and .safetensors files lies in it, or nothing does.
    """
    names = set(names_in(draft)) - {MANIFEST_NAME, SIGNATURE_NAME}
    for name in sorted(names):
        if _FILE_NAME.fullmatch(name) is None or not (draft / name).is_file() or (draft / name).is_symlink():
            message = f"{draft / name} cannot be part of a version: plain .json and .safetensors files only"
            raise RegistryError(message)
    if not names:
        message = f"{draft} holds no files: there is nothing to publish"
        raise RegistryError(message)
    return {name: draft / name for name in names}


def differs(version: str, name: str) -> str:
    """That a file of a version was changed, and what to do about it."""
    return f"version {version}: {name} is not what the manifest says; never serve it, restore it from a backup"
