"""The file of a backup: a tar of plain files under zstd, whose last members say what the others are, signed."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, cast

import msgspec
import zstandard

from ops.backup.records import FORMAT, MANIFEST, PURPOSE, SIGNATURE, BackupManifest
from store.errors import DamagedCopyError
from store.registry.manifest import FileEntry, canonical_json
from store.registry.signing import Signature, SigningKey

_LEVEL: Final = 3  # weights hardly shrink, whatever is tried
_CHUNK_BYTES: Final = 1 << 20
_MOST_SAID_BYTES: Final = 256 << 20  # of a manifest


class Writer:
    """Writes members, and remembers what they were."""

    def __init__(self, tar: tarfile.TarFile, made_s: float) -> None:
        """Use an open tar; `opened` makes one."""
        self._tar = tar
        self._made_s = made_s
        self.files: dict[str, FileEntry] = {}

    def add(self, name: str, data: bytes) -> None:
        """Add a small member."""
        self._put(name, io.BytesIO(data), len(data))

    def add_file(self, name: str, file: BinaryIO, size: int) -> FileEntry:
        """Add the next `size` bytes of a file; what was there, which is said in the manifest, too.

        Raises:
            DamagedCopyError: the file has become shorter.
        """
        self._put(name, file, size)
        return self.files[name]

    def add_path(self, name: str, path: Path) -> FileEntry:
        """Add a file as it is now: what is written to its end meanwhile is left out."""
        with path.open("rb") as file:
            return self.add_file(name, file, path.stat().st_size)

    def seal(self, manifest: BackupManifest, key: SigningKey) -> None:
        """End with the manifest and its signature."""
        data = canonical_json(msgspec.structs.replace(manifest, files=self.files))
        signature = canonical_json(key.sign(PURPOSE + data))
        self._put(MANIFEST, io.BytesIO(data), len(data))
        self._put(SIGNATURE, io.BytesIO(signature), len(signature))

    def _put(self, name: str, file: BinaryIO, size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = size, 0o600, int(self._made_s)
        hashing = _Hashing(file, size)
        try:
            self._tar.addfile(member, cast("BinaryIO", hashing))
        except OSError as error:
            if "unexpected end of data" not in str(error):
                raise
            message = f"{name} became shorter while it was copied: try again"
            raise DamagedCopyError(message) from error
        self.files[name] = FileEntry(sha256=hashing.digest.hexdigest(), size_bytes=size)


class _Hashing:
    """A file that is hashed as it is read, up to a length."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        self.digest.update(data)
        return data


@contextmanager
def opened(out: BinaryIO, made_s: float) -> Iterator[Writer]:
    """A new archive on an open file."""
    with (
        zstandard.ZstdCompressor(level=_LEVEL).stream_writer(out, closefd=False) as packed,
        tarfile.open(mode="w|", fileobj=cast("BinaryIO", packed), format=tarfile.PAX_FORMAT) as tar,
    ):
        yield Writer(tar, made_s)


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """A backup whose every member lies in a folder, and is what its manifest says."""

    folder: Path
    manifest: BackupManifest
    signed: bytes
    signature: Signature

    def path(self, member: str) -> Path:
        """Where a member lies."""
        return self.folder / member

    def members(self, prefix: str) -> list[str]:
        """The members whose names begin so."""
        return sorted(name for name in self.manifest.files if name.startswith(prefix))


def unpack(file: BinaryIO, folder: Path) -> Unpacked:
    """Write every member into an empty folder, and see that each is what the manifest says.

    Raises:
        DamagedCopyError: it is damaged, cut short, of a later format, or no backup of ours.
        OSError: the folder takes nothing.
    """
    found: dict[str, FileEntry] = {}
    try:
        with (
            zstandard.ZstdDecompressor().stream_reader(file, closefd=False) as packed,
            tarfile.open(mode="r|", fileobj=cast("BinaryIO", packed)) as tar,
        ):
            for member in tar:
                name = checked_name(member.name)
                inside = tar.extractfile(member) if member.isreg() else None
                if inside is None or name in found:
                    message = (
                        f"the backup holds {member.name!r}, which is no plain file or there twice: it is none of ours"
                    )
                    raise DamagedCopyError(message)
                found[name] = _written(folder / name, cast("BinaryIO", inside))
    except (zstandard.ZstdError, tarfile.TarError, EOFError) as error:
        message = f"the backup is damaged or cut short ({error}): take another one"
        raise DamagedCopyError(message) from error
    return _checked(folder, found)


def checked_name(name: str) -> str:
    """The name of a member, which stays inside of a folder wherever that is.

    Raises:
        DamagedCopyError: it would not.
    """
    path = PurePosixPath(name)
    odd = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or str(path) != name or name == "."
    if odd:
        message = f"the backup holds {name!r}, which would lie outside of where it is restored to: it is none of ours"
        raise DamagedCopyError(message)
    return name


def _written(path: Path, source: BinaryIO) -> FileEntry:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        path.chmod(0o600)
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    return FileEntry(sha256=digest.hexdigest(), size_bytes=size)


def _checked(folder: Path, found: dict[str, FileEntry]) -> Unpacked:
    if MANIFEST not in found or SIGNATURE not in found:
        message = f"the backup is cut short, or none of ours: it has no {MANIFEST} at its end. Take another one"
        raise DamagedCopyError(message)
    if found[MANIFEST].size_bytes > _MOST_SAID_BYTES:
        message = f"{MANIFEST} of the backup is too large to be one of ours"
        raise DamagedCopyError(message)
    signed = (folder / MANIFEST).read_bytes()
    try:
        if (schema := msgspec.json.decode(signed, type=_Schema).schema) > FORMAT:
            message = f"the backup has format {schema}, this release reads up to {FORMAT}: restore with a later release"
            raise DamagedCopyError(message)
        manifest = msgspec.json.decode(signed, type=BackupManifest)
        signature = msgspec.json.decode((folder / SIGNATURE).read_bytes(), type=Signature)
    except msgspec.MsgspecError as error:
        message = f"{MANIFEST} of the backup cannot be read: {error}"
        raise DamagedCopyError(message) from error
    del found[MANIFEST], found[SIGNATURE]
    if wrong := sorted(name for name in {*found, *manifest.files} if found.get(name) != manifest.files.get(name)):
        message = f"the backup is damaged: {', '.join(wrong[:5])} is not what {MANIFEST} says. Take another one"
        raise DamagedCopyError(message)
    return Unpacked(folder=folder, manifest=manifest, signed=signed, signature=signature)


class _Schema(msgspec.Struct):
    """All that every format says of itself."""

    schema: int
