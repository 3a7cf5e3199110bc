"""Versions of the student: immutable, content-addressed, signed folders, verified at every load.

`<root>/blobs/<sha256>` keeps each file once; `<root>/<tenant>/<use_case>/versions/<id>/` links it. A version is there
once its folder has its name, and its name is the hash of its manifest.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from store.errors import CorruptVersionError, RegistryError, UnknownVersionError
from store.event import Lane
from store.log.lazy import logger
from store.registry.files.blobs import Blobs, is_intact
from store.registry.files.durable import (
    PROBE_PREFIX,
    make_folder,
    read_bounded,
    remove_unfinished,
    require_exclusive_create,
    sync_folder,
    write_new,
)
from store.registry.files.folders import lane_registry
from store.registry.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    VERSION_ID_HEX_DIGITS,
    FileEntry,
    Manifest,
    canonical_json,
    version_id,
)
from store.registry.sealed import (
    PURPOSE,
    OpenVersion,
    decode_manifest,
    decode_signature,
    differs,
    files_of_draft,
    names_in,
)
from store.registry.signing import Signature, SigningKey, TrustedKeys

_log = logger(__name__)
_MAX_MANIFEST_BYTES: Final = 32 << 20
_MAX_SIGNATURE_BYTES: Final = 4096
_TEMPORARY: Final = ".tmp-"
_SAID: Final = 5  # of the things that do not belong
_ID: Final = re.compile(rf"[0-9a-f]{{{VERSION_ID_HEX_DIGITS}}}")
Built = TypeVar("Built")


class Versions:
    """The versions of one lane."""

    def __init__(self, root: Path, trusted: TrustedKeys, lane: Lane) -> None:
        """Use the registry at `root`; nothing is written before the first `publish`."""
        self._root = root
        self._folder, _ = lane_registry(root, lane)
        self._blobs = Blobs(root / "blobs")
        self._trusted = trusted
        self._lane = lane

    def publish(self, draft: Path, manifest: Manifest, key: SigningKey) -> str:
        """Make a version of the files in `draft` and return its id; the same twice is the same version.

        The draft is left as it is. A crash leaves no version or a whole one, and the next call removes the remains.
        What lies in the registry and is not its own is said in the log, left as it is, and stops nothing.
        The folder of an older version may be the draft: its manifest and signature are not taken along.

        Args:
            draft: folder of .json and .safetensors files.
            manifest: what the version says of itself; `files` is filled in here.
            key: must be trusted here.

        Raises:
            RegistryError: the draft holds anything else, or the manifest is not one of this lane.
            BadSignatureError: the key is not trusted, so nobody would load the version.
        """
        with self._writing():
            files = {name: self._blobs.add(path) for name, path in sorted(files_of_draft(draft).items())}
            data = self._final_bytes(manifest, files)
            signature = key.sign(PURPOSE + data)
            self._trusted.verify(PURPOSE + data, signature)
            version = version_id(data)
            if os.path.lexists(self._folder / version):
                found = self.open(version).id
                sync_folder(self._folder)  # whoever gave it its name may not have come so far
                return found
            temporary = self._folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
            self._assemble(temporary, files, data, signature)
            temporary.rename(self._folder / version)
            try:
                sync_folder(self._folder)
            except OSError as error:
                message = f"version {version} was published, but may not outlive a power cut: {error}"
                raise RegistryError(message) from error
            return version

    def open(self, version: str) -> OpenVersion:
        """Verify a version: the name, the signature, that nothing was added, and every file's sha256.

        Raises:
            UnknownVersionError: there is none with this id.
            BadSignatureError: it is not signed by a trusted key.
            CorruptVersionError: its files disagree with its manifest.
        """
        opened = self._opened(version)
        opened.verify_rest()
        return opened

    def load(self, version: str, build: Callable[[OpenVersion], Built]) -> Built:
        """What `build` makes of a version, once all of it is verified: what it reads as it reads it, the rest after it.

        So nothing is hashed twice, and what is in memory already (a base that two versions share) is not read again.

        Raises:
            RegistryError: as `open` does; and whatever `build` raises.
        """
        opened = self._opened(version)
        built = build(opened)
        opened.verify_rest()
        return built

    def _opened(self, version: str) -> OpenVersion:
        """The signature is verified, and that the files are those of the manifest by name."""
        manifest, data, signed_by = self._signed_manifest(version)
        folder = self._folder / version
        present = set(names_in(folder)) - {MANIFEST_NAME, SIGNATURE_NAME}
        if present != manifest.files.keys():
            odd = sorted(present ^ manifest.files.keys())
            message = (
                f"version {version}: {', '.join(map(repr, odd[:5]))} is missing or does not belong; never serve it"
            )
            raise CorruptVersionError(message)
        for name, entry in manifest.files.items():
            try:
                intact = is_intact(folder / name, entry)
            except FileNotFoundError:
                intact = False
            if not intact:
                raise CorruptVersionError(differs(version, name))
        return OpenVersion(id=version, manifest=manifest, signed=data, signed_by=signed_by, folder=folder)

    def part(self, version: str, name: str) -> bytes:
        """One file of a version, its signature and this file verified; the others are not looked at.

        Raises:
            RegistryError: as `open` does, of the manifest and this file.
        """
        manifest, data, signed_by = self._signed_manifest(version)
        folder = self._folder / version
        opened = OpenVersion(id=version, manifest=manifest, signed=data, signed_by=signed_by, folder=folder)
        return opened.read(name)

    def manifest(self, version: str) -> Manifest:
        """A version's manifest, its signature verified; the files are not looked at."""
        return self._signed_manifest(version)[0]

    def list(self) -> list[str]:
        """The ids of all versions, sorted; they are verified when they are opened."""
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if _ID.fullmatch(path.name))

    def resolve(self, prefix: str) -> str:
        """The one version whose id begins like this.

        Raises:
            UnknownVersionError: there is none, or more than one.
        """
        found = [version for version in self.list() if prefix and version.startswith(prefix)]
        if len(found) != 1:
            which = f"{len(found)} versions begin" if found else "no version begins"
            message = f"{which} with {prefix!r} in {self._lane}; `understudy history` lists them"
            raise UnknownVersionError(message)
        return found[0]

    def _signed_manifest(self, version: str) -> tuple[Manifest, bytes, str]:
        folder = self._folder / version
        if _ID.fullmatch(version) is None or not os.path.lexists(folder):
            message = f"no version {version!r} in {self._lane}; `understudy history` lists them"
            raise UnknownVersionError(message)
        if folder.is_symlink() or not folder.is_dir():
            message = f"version {version} is no folder of the registry's own, but a link or a file; never serve it"
            raise CorruptVersionError(message)
        try:
            data = read_bounded(self._folder / version / MANIFEST_NAME, _MAX_MANIFEST_BYTES)
            seal = read_bounded(self._folder / version / SIGNATURE_NAME, _MAX_SIGNATURE_BYTES)
        except FileNotFoundError as error:
            message = f"version {version} has no {Path(error.filename).name}; never serve it"
            raise CorruptVersionError(message) from error
        if version_id(data) != version:
            raise CorruptVersionError(differs(version, MANIFEST_NAME))
        signed_by = self._trusted.verify(PURPOSE + data, decode_signature(version, seal))
        manifest = decode_manifest(data)
        if manifest.lane != self._lane:
            message = f"version {version} was made for lane {manifest.lane}, not for {self._lane}; never serve it here"
            raise CorruptVersionError(message)
        return manifest, data, signed_by

    def _final_bytes(self, manifest: Manifest, files: dict[str, FileEntry]) -> bytes:
        if manifest.lane != self._lane:
            message = f"the manifest is for lane {manifest.lane}, this is the registry of {self._lane}"
            raise RegistryError(message)
        try:
            data = canonical_json(msgspec.structs.replace(manifest, files=files))
            # Decoded and written again: 1 in a field for fractions becomes 1.0, so equal manifests have equal ids.
            data = canonical_json(decode_manifest(data))
        except (TypeError, ValueError, OverflowError, CorruptVersionError) as error:
            message = f"the manifest cannot be written: {error}"
            raise RegistryError(message) from error
        if len(data) > _MAX_MANIFEST_BYTES:
            message = f"the manifest has {len(data)} bytes, {_MAX_MANIFEST_BYTES} allowed"
            raise RegistryError(message)
        return data

    def _assemble(self, folder: Path, files: dict[str, FileEntry], manifest: bytes, signature: Signature) -> None:
        folder.mkdir()
        for name, entry in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._blobs.link(entry, folder / name)
        write_new(folder / SIGNATURE_NAME, canonical_json(signature))
        write_new(folder / MANIFEST_NAME, manifest)
        for inner in sorted({folder, *(parent for name in files for parent in (folder / name).parents)}):
            if inner.is_relative_to(folder):
                sync_folder(inner)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One publisher at a time, so that whatever is unfinished here is left over from a dead one."""
        try:
            make_folder(self._root)
            descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                require_exclusive_create(self._folder)
                try:
                    yield
                finally:
                    self._sweep()
            finally:
                os.close(descriptor)
        except OSError as error:
            message = f"nothing was published in {self._folder}: {error}"
            raise RegistryError(message) from error

    def _sweep(self) -> None:
        """Remove what dead publishers left; what is not ours, or stays, is said: it undoes no publication."""
        odd: list[str] = []
        try:
            names = sorted(path.name for path in self._folder.iterdir() if _ID.fullmatch(path.name) is None)
        except OSError as error:
            names, odd = [], [f"{self._folder}: {error.strerror}"]
        for name in names:
            ours = name.startswith((_TEMPORARY, PROBE_PREFIX))
            why = remove_unfinished(self._folder / name) if ours else "not a version"
            if why is not None:
                odd.append(f"{self._folder / name}: {why}")
        odd += self._blobs.collect()
        if odd:
            _log.warning(
                "the registry holds what is not its own", lane=str(self._lane), count=len(odd), odd=odd[:_SAID]
            )
