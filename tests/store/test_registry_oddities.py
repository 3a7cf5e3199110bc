"""What somebody put into the registry, or could not be written to it, neither stops it nor is followed out of it."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from store.errors import CorruptVersionError, RegistryError, UnknownVersionError
from store.registry.registry import Registry
from store.registry.signing import SigningKey
from store.registry.versions import Versions
from tests.store.drafts import LANE, make_draft, make_manifest, make_versions

Place = tuple[Versions, SigningKey, Path]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    versions, key = make_versions(tmp_path)
    make_draft(tmp_path / "draft")
    return versions, key, tmp_path


def link_to_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside, target_is_directory=True)


def link_to_file(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "kept.json")


def broken_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "absent")


def pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, outside: Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "out").symlink_to(outside, target_is_directory=True)


def file(path: Path, outside: Path) -> None:
    path.write_bytes(b"somebody's")


PLANTS = [link_to_folder, link_to_file, broken_link, pipe, folder, file]
PLACES = [
    f"{where}/{name}"
    for where in ("acme/intents/versions", "acme/intents/moves", "blobs")
    for name in (".tmp-0123", ".hidden", "notes", "0" * 64, "0" * 15, ".probe-00", ".00000001-00.tmp")
]


@pytest.mark.parametrize("plant", PLANTS)
def test_nothing_planted_in_the_registry_stops_it_or_leads_out_of_it(
    place: Place, plant: Callable[[Path, Path], None]
) -> None:
    versions, key, root = place
    outside = root / "outside"
    outside.mkdir()
    (outside / "kept.json").write_bytes(b"kept")
    first = versions.publish(root / "draft", make_manifest(), key)
    moves = Registry(root / "registry", versions._trusted).moves(LANE)
    moves.append("promote", version=first, who="me", why="", key=key, now_s=1.0)
    for number, name in enumerate(PLACES):
        plant(root / "registry" / name, outside)
        second = versions.publish(root / "draft", make_manifest(seed=100 + number), key)
        assert versions.open(second).read("head.safetensors") == b"head one", name
        assert moves.append("promote", version=second, who="me", why="", key=key, now_s=1.0).number == number + 2
        assert (outside / "kept.json").read_bytes() == b"kept", name
    assert len(versions.list()) == 1 + len(PLACES)


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_not_the_registrys_own_is_left_and_said(place: Place, plant: Callable[[Path, Path], None]) -> None:
    versions, key, root = place
    outside = root / "outside"
    outside.mkdir()
    versions.publish(root / "draft", make_manifest(), key)
    plant(root / "registry/acme/intents/versions/.planted", outside)
    plant(root / "registry/blobs/planted", outside)
    with structlog.testing.capture_logs() as said:
        versions.publish(root / "draft", make_manifest(seed=8), key)
    (line,) = said
    assert line["count"] == 2
    assert [Path(one.split(":")[0]).name for one in line["odd"]] == [".planted", "planted"]
    assert all(os.path.lexists(one.split(":")[0]) for one in line["odd"])


def test_a_leftover_that_cannot_be_removed_undoes_no_publication(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    versions, key, root = place
    versions.publish(root / "draft", make_manifest(), key)
    (root / "registry/acme/intents/versions/.tmp-stuck").mkdir()
    (root / "registry/blobs/.tmp-stuck").write_bytes(b"")

    def immutable(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch, structlog.testing.capture_logs() as said:
        patch.setattr(shutil, "rmtree", immutable)
        patch.setattr(os, "unlink", immutable)
        version = versions.publish(root / "draft", make_manifest(seed=8), key)
    assert versions.open(version).id == version
    assert "not permitted" in str(said[0]["odd"])


@pytest.mark.parametrize("plant", [link_to_folder, link_to_file, broken_link, pipe, file])
def test_a_version_that_is_a_link_or_a_file_is_never_opened(place: Place, plant: Callable[[Path, Path], None]) -> None:
    versions, key, root = place
    version = versions.publish(root / "draft", make_manifest(), key)
    real = root / "registry/acme/intents/versions" / version
    aside = root / "aside"
    real.rename(aside)
    plant(real, aside)
    for read in (versions.open, versions.manifest):
        with pytest.raises(CorruptVersionError, match="never serve it"):
            read(version)
    with pytest.raises(CorruptVersionError, match="never serve it"):  # the same id again
        versions.publish(root / "draft", make_manifest(), key)
    with pytest.raises(UnknownVersionError):
        versions.open("0" * 16)


def test_a_folder_within_a_version_that_is_a_link_is_never_followed(place: Place) -> None:
    versions, key, root = place
    version = versions.publish(root / "draft", make_manifest(), key)
    inner = versions.open(version).folder / "encoder"
    inner.rename(root / "aside")
    inner.symlink_to(root / "aside", target_is_directory=True)
    with pytest.raises(CorruptVersionError):
        versions.open(version)


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[list[str]]:
    """The `at`-th call that takes room on the disk fails, and each after it; yields the calls that were made."""
    made: list[str] = []

    def wrap(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **named)
            made.append(name)
            if len(made) >= at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("open", "fsync", "mkdir", "link", "rename", "replace"):
            patch.setattr(os, name, wrap(name))
        yield made


def test_a_disk_that_is_full_at_any_write_of_a_publication_keeps_nothing_of_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions, key, root = place
    first = versions.publish(make_draft(root / "old", head=b"old", encoder=b"old"), make_manifest(), key)
    kept = names_in(root / "registry")
    for number in range(1, 200):
        with full_disk(monkeypatch, number) as made:
            try:
                versions.publish(root / "draft", make_manifest(seed=8), key)
            except RegistryError as error:
                text = str(error)
                assert "No space left" in text
            else:
                break
        if "may not outlive" in text:
            assert len(versions.list()) == 2
            break
        assert names_in(root / "registry") == kept, (number, made)
        assert versions.list() == [first]
    assert number > 20
    second = versions.publish(root / "draft", make_manifest(seed=8), key)
    assert versions.open(second).id == second


def test_a_disk_that_is_full_at_any_write_of_a_move_keeps_nothing_of_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions, key, root = place
    moves = Registry(root / "registry", versions._trusted).moves(LANE)
    moves.append("promote", version="a" * 16, who="me", why="", key=key, now_s=1.0)
    kept = names_in(root / "registry")
    for number in range(1, 200):
        with full_disk(monkeypatch, number):
            try:
                moves.append("promote", version="b" * 16, who="me", why="", key=key, now_s=1.0)
            except RegistryError as error:
                text = str(error)
                assert "No space left" in text
            else:
                break
        if "may not outlive" in text:
            break
        assert names_in(root / "registry") == kept
    assert number > 2
    assert [move.version for move in moves.read()] == ["a" * 16, "b" * 16]


def names_in(folder: Path) -> set[str]:
    """Every file there is, the lock left out."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() and path.name != ".lock"}
