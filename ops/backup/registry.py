"""A registry's part of a backup: each file of the versions once, their manifests, and the chains as they are."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from ops.backup.archive import Writer, checked_name
from ops.backup.records import REGISTRY, LaneCopied
from ops.sections import LaneSection
from ops.site import Site
from store.errors import CorruptVersionError, DamagedCopyError, RegistryError
from store.registry.files.folders import LETTERS, lane_registry, letters_folder, rulings_folder
from store.registry.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from store.registry.moves import fold
from store.registry.sealed import decode_manifest

BLOBS: Final = "blobs"


class RegistryCopied:
    """Copies what is new since its last call: versions and records never change."""

    def __init__(self, site: Site, writer: Writer) -> None:
        """Copy from a site into an archive."""
        self._site = site
        self._writer = writer
        self._blobs: set[str] = set()
        self._tried: set[tuple[str, str]] = set()
        self._versions: dict[str, list[str]] = {}
        self.problems: list[str] = []

    def stand(self) -> dict[str, tuple[list[str], ...]]:
        """What there is now by name: of every lane versions, moves and rulings, of every use case decisions."""
        found: dict[str, tuple[list[str], ...]] = {
            f"{LETTERS}/{use_case}": (_names(letters_folder(self._site.registry_root, use_case)),)
            for use_case in self._site.use_cases
        }
        for section in self._site.settings.lanes:
            _, moves = lane_registry(self._site.registry_root, section.lane)
            rulings = rulings_folder(self._site.registry_root, section.lane)
            versions = self._site.registry.versions(section.lane).list()
            found[str(section.lane)] = (versions, _names(moves), _names(rulings))
        return found

    def copy(self) -> None:
        """Copy what is not there yet."""
        for section in self._site.settings.lanes:
            versions, moves = lane_registry(self._site.registry_root, section.lane)
            for version in self._site.registry.versions(section.lane).list():
                if (str(section.lane), version) not in self._tried:
                    self._tried.add((str(section.lane), version))
                    self._copy_version(section, versions / version, version)
            for folder in (moves, moves.with_name("rulings")):
                self._copy_chain(_member(section, folder.name, ""), folder)
        for use_case in self._site.use_cases:
            self._copy_chain(f"{REGISTRY}{LETTERS}/{use_case}/", letters_folder(self._site.registry_root, use_case))

    def _copy_chain(self, place: str, folder: Path) -> None:
        for name in _names(folder):
            if place + name not in self._writer.files:
                self._writer.add_path(place + name, folder / name)

    def lanes(self) -> list[LaneCopied]:
        """What was copied of each lane."""
        found = []
        for section in self._site.settings.lanes:
            moves = sorted(name for name in self._writer.files if name.startswith(_member(section, "moves", "")))
            rulings = [name for name in self._writer.files if name.startswith(_member(section, "rulings", ""))]
            found.append(
                LaneCopied(
                    lane=str(section.lane),
                    task=section.task,
                    champion=self._champion(section, len(moves)),
                    versions=self._versions.get(str(section.lane), []),
                    moves=len(moves),
                    rulings=len(rulings),
                    chain_sha256=self._writer.files[moves[-1]].sha256 if moves else None,
                )
            )
        return found

    def _champion(self, section: LaneSection, moves: int) -> str | None:
        try:
            return fold(self._site.registry.moves(section.lane).read()[:moves]).champion
        except RegistryError as error:
            self.problems.append(f"{section.lane}: {error}")
            return None

    def _copy_version(self, section: LaneSection, folder: Path, version: str) -> None:
        """Copy one version, or say why it is left out: what is damaged here would only be damaged there."""
        try:
            manifest = self._site.registry.versions(section.lane).open(version).manifest
        except (RegistryError, OSError) as error:
            self.problems.append(f"{section.lane}: version {version} is left out: {error}")
            return
        for name, entry in sorted(manifest.files.items()):
            if entry.sha256 not in self._blobs:
                self._blobs.add(entry.sha256)
                if self._writer.add_path(f"{REGISTRY}{BLOBS}/{entry.sha256}", folder / name) != entry:
                    message = f"{section.lane}: {name} of version {version} changed while it was copied: never serve it"
                    raise CorruptVersionError(message)
        for name in (SIGNATURE_NAME, MANIFEST_NAME):
            self._writer.add_path(_member(section, f"versions/{version}", name), folder / name)
        self._versions.setdefault(str(section.lane), []).append(version)


def _member(section: LaneSection, folder: str, name: str) -> str:
    return f"{REGISTRY}{section.tenant}/{section.use_case}/{folder}/{name}"


def _names(folder: Path) -> list[str]:
    """The records of a chain by name."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))


def link_versions(folder: Path) -> None:
    """Give every version of an unpacked registry its files, as hard links of the blobs.

    Raises:
        DamagedCopyError: a version names a file that the backup lacks.
    """
    for path in sorted(folder.glob(f"*/*/versions/*/{MANIFEST_NAME}")):
        manifest = _manifest(path)
        for name, entry in manifest.files.items():
            target = path.parent / checked_name(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            blob = folder / BLOBS / entry.sha256
            if not blob.is_file():
                message = f"the backup lacks {name} of version {path.parent.name}: take another one"
                raise DamagedCopyError(message)
            os.link(blob, target)


def _manifest(path: Path) -> Manifest:
    try:
        return decode_manifest(path.read_bytes())
    except RegistryError as error:
        message = f"version {path.parent.name} of the backup: {error}"
        raise DamagedCopyError(message) from error


def places_of(sections: Sequence[LaneSection]) -> list[str]:
    """The folders of a registry that are an installation's, inside of it: of lanes, of use cases, and the blobs."""
    of_lanes = [f"{section.tenant}/{section.use_case}" for section in sections]
    letters = sorted({f"{LETTERS}/{section.use_case}" for section in sections})
    return [BLOBS, *of_lanes, *letters]


def filled(root: Path, places: Iterable[str]) -> list[Path]:
    """Those of some folders of a registry that hold something already."""
    found = [root / place for place in places]
    return [place for place in found if place.is_dir() and any(path.is_file() for path in place.rglob("*"))]
