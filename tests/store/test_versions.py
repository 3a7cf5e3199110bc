"""Versions: whole or absent, verified at every load, each file kept once."""

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pytest

from store.errors import BadSignatureError, CorruptVersionError, RegistryError, UnknownVersionError
from store.event import Lane
from store.registry.files import blobs, durable
from store.registry.files.folders import lane_registry
from store.registry.manifest import FileEntry, canonical_json, version_id
from store.registry.registry import Registry
from store.registry.sealed import PURPOSE
from store.registry.signing import SigningKey
from store.registry.students.records import ClassifyRecord
from store.registry.versions import Versions
from tests.store.drafts import (
    ENCODER_BYTES,
    LANE,
    OTHER_LANE,
    make_draft,
    make_keys,
    make_manifest,
    make_versions,
    of_schema_1,
)

Place = tuple[Versions, SigningKey, Path]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    versions, key = make_versions(tmp_path)
    return versions, key, tmp_path


def overwrite(path: Path, data: bytes) -> None:
    """Write over a read-only file in place, as a bad disk or an intruder would."""
    path.chmod(0o644)
    path.write_bytes(data)


def plant(root: Path, lane: Lane, manifest: bytes, key: SigningKey, files: dict[str, bytes]) -> str:
    """A version folder made by hand, signed by `key`."""
    folder = lane_registry(root, lane)[0] / version_id(manifest)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "manifest.sig").write_bytes(canonical_json(key.sign(PURPOSE + manifest)))
    return folder.name


def test_a_published_version_opens_with_the_drafts_bytes(place: Place) -> None:
    versions, key, folder = place
    draft = make_draft(folder / "draft")
    version = versions.publish(draft, make_manifest(), key)
    opened = versions.open(version)
    assert (opened.id, opened.signed_by) == (version, "trainer")
    assert dict(opened.files) == {
        name: (draft / name).read_bytes()
        for name in ("head.safetensors", "encoder/model.safetensors", "encoder/config.json")
    }
    assert opened.manifest.files["head.safetensors"] == FileEntry(
        sha256=hashlib.sha256(b"head one").hexdigest(), size_bytes=8
    )
    assert versions.manifest(version) == opened.manifest
    assert opened.path("head.safetensors").read_bytes() == b"head one"
    assert "absent.json" not in opened.files
    assert versions.list() == [version]


def test_publishing_the_same_twice_is_the_same_version(place: Place) -> None:
    versions, key, folder = place
    draft = make_draft(folder / "draft")
    first = versions.publish(draft, make_manifest(), key)
    assert versions.publish(draft, make_manifest(), key) == first
    assert versions.publish(draft, versions.manifest(first), key) == first
    assert versions.publish(draft, make_manifest(created_s=1_700_000_000), key) == first, "1 and 1.0 are one number"
    assert versions.list() == [first]


def test_a_version_can_be_the_draft_of_the_next(place: Place) -> None:
    versions, key, folder = place
    candidate = versions.publish(make_draft(folder / "draft"), make_manifest(kind="candidate"), key)
    judged = versions.publish(versions.open(candidate).folder, make_manifest(), key)
    assert versions.open(judged).manifest.files == versions.open(candidate).manifest.files


def test_one_flipped_bit_in_any_file_is_refused_by_open_and_by_read(place: Place) -> None:
    versions, key, folder = place
    version = versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    opened = versions.open(version)
    for name in opened.manifest.files:
        good = opened.read(name)
        for index in range(len(good)):
            bad = bytearray(good)
            bad[index] ^= 1 << (index % 8)
            overwrite(opened.path(name), bytes(bad))
            with pytest.raises(CorruptVersionError, match=name):
                versions.open(version)
            with pytest.raises(CorruptVersionError, match=name):
                opened.read(name)
        for bad_length in (good + b"x", good[:-1], b""):
            overwrite(opened.path(name), bad_length)
            with pytest.raises(CorruptVersionError, match=name):
                versions.open(version)
            with pytest.raises(CorruptVersionError, match=name):
                opened.read(name)
        overwrite(opened.path(name), good)
    assert versions.open(version).id == version


def test_a_load_hashes_each_file_once_and_what_it_does_not_read_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions, key, folder = place
    version = versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    hashed: list[str] = []
    for name in ("read_verified", "is_intact"):
        one = getattr(blobs, name)

        def counted(path: Path, entry: FileEntry, one: Any = one) -> Any:
            hashed.append(path.name)
            return one(path, entry)

        monkeypatch.setattr(f"store.registry.sealed.{name}", counted)
    files = versions.manifest(version).files
    read = "encoder/model.safetensors"
    assert versions.load(version, lambda opened: opened.read(read)) == (folder / "draft" / read).read_bytes()
    assert sorted(hashed) == sorted(Path(name).name for name in files)
    for name in files:
        path = versions.open(version).path(name)
        good = path.read_bytes()
        overwrite(path, good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(CorruptVersionError, match=name):
            versions.load(version, lambda opened: opened.read(read))
        overwrite(path, good)


@pytest.mark.parametrize(
    ("name", "error"), [("manifest.json", CorruptVersionError), ("manifest.sig", BadSignatureError)]
)
def test_any_flipped_byte_of_manifest_or_signature_is_refused(
    place: Place, name: str, error: type[RegistryError]
) -> None:
    versions, key, folder = place
    version = versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    path = versions.open(version).folder / name
    good = path.read_bytes()
    for index in range(len(good)):
        bad = bytearray(good)
        bad[index] ^= 0x20  # turns a into A: the same hex digit, another byte
        overwrite(path, bytes(bad))
        with pytest.raises(error):
            versions.manifest(version)
    with pytest.raises(error):
        versions.open(version)
    for bad_length in (good + b"\n", good[:-1], b""):
        overwrite(path, bad_length)
        with pytest.raises(error):
            versions.open(version)
    path.unlink()
    with pytest.raises(CorruptVersionError, match=name):
        versions.open(version)


def test_a_changed_manifest_under_its_own_new_name_is_refused_for_its_signature(place: Place) -> None:
    versions, key, folder = place
    version = versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    old = versions.open(version).folder
    changed = (old / "manifest.json").read_bytes().replace(b'"seed":7', b'"seed":8')
    renamed = old.with_name(version_id(changed))
    old.rename(renamed)
    overwrite(renamed / "manifest.json", changed)
    with pytest.raises(BadSignatureError):
        versions.open(renamed.name)


def test_a_version_signed_by_an_unknown_key_is_refused(place: Place) -> None:
    versions, key, folder = place
    version = versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    stranger, _ = make_keys(folder / "stranger")
    seal = versions.open(version).folder / "manifest.sig"
    manifest = (seal.parent / "manifest.json").read_bytes()
    overwrite(seal, canonical_json(stranger.sign(PURPOSE + manifest)))
    with pytest.raises(BadSignatureError, match="not among the trusted"):
        versions.open(version)


def test_a_signature_made_for_another_purpose_is_refused(place: Place) -> None:
    versions, key, folder = place
    version = versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    seal = versions.open(version).folder / "manifest.sig"
    overwrite(seal, canonical_json(key.sign((seal.parent / "manifest.json").read_bytes())))
    with pytest.raises(BadSignatureError):
        versions.open(version)


def test_nothing_is_published_with_a_key_that_nobody_trusts(place: Place) -> None:
    versions, _, folder = place
    stranger, _ = make_keys(folder / "stranger")
    with pytest.raises(BadSignatureError):
        versions.publish(make_draft(folder / "draft"), make_manifest(), stranger)
    assert versions.list() == []
    assert_no_remains(folder / "registry")


@pytest.mark.parametrize(
    "name",
    [
        "../escape.json",
        "/etc/passwd.json",
        "a/../../b.json",
        "./a.json",
        "a//b.json",
        ".hidden.json",
        "a\\b.json",
        "a\n.json",
        "a.json\n",
        "",
        "weights.bin",
        "model.pkl",
        "code.py",
        "manifest.json",
    ],
)
def test_a_signed_manifest_that_names_a_file_outside_or_of_another_kind_is_refused(place: Place, name: str) -> None:
    versions, key, folder = place
    (folder / "escape.json").write_bytes(b"x")
    entry = FileEntry(sha256=hashlib.sha256(b"x").hexdigest(), size_bytes=1)
    manifest = canonical_json(make_manifest(files={name: entry}))
    version = plant(folder / "registry", LANE, manifest, key, {})
    with pytest.raises(CorruptVersionError, match="names the file"):
        versions.open(version)


@pytest.mark.parametrize("spelling", [b" ", b"\n"])
def test_a_signed_manifest_in_another_spelling_is_refused(place: Place, spelling: bytes) -> None:
    versions, key, folder = place
    manifest = canonical_json(make_manifest()).replace(b'"seed":7', b'"seed":' + spelling + b"7")
    version = plant(folder / "registry", LANE, manifest, key, {})
    with pytest.raises(CorruptVersionError, match="canonical"):
        versions.open(version)


def test_a_manifest_with_a_key_twice_is_refused(place: Place) -> None:
    versions, key, folder = place
    manifest = canonical_json(make_manifest()).replace(b'"seed":7', b'"seed":6,"seed":7')
    with pytest.raises(CorruptVersionError, match="canonical"):
        versions.open(plant(folder / "registry", LANE, manifest, key, {}))


def test_a_manifest_of_a_later_release_with_one_more_field_still_opens(place: Place) -> None:
    versions, key, folder = place
    manifest = canonical_json(msgspec.to_builtins(make_manifest()) | {"zeal": 1})
    assert versions.open(plant(folder / "registry", LANE, manifest, key, {})).manifest == make_manifest()


@pytest.mark.parametrize("extra", ["extra.json", "encoder/extra.safetensors", "encoder/__init__.py", ".hidden"])
def test_a_file_that_the_manifest_does_not_name_is_refused(place: Place, extra: str) -> None:
    versions, key, folder = place
    version = versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    (versions.open(version).folder / extra).write_bytes(pickle.dumps("anything"))
    with pytest.raises(CorruptVersionError, match="does not belong"):
        versions.open(version)


def test_a_missing_file_is_refused(place: Place) -> None:
    versions, key, folder = place
    version = versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    opened = versions.open(version)
    opened.path("head.safetensors").unlink()
    with pytest.raises(CorruptVersionError, match=r"head\.safetensors"):
        versions.open(version)
    with pytest.raises(CorruptVersionError, match=r"head\.safetensors"):
        opened.read("head.safetensors")
    with pytest.raises(CorruptVersionError, match="no file"):
        opened.read("absent.json")


def test_a_linked_folder_that_does_not_belong_is_refused(place: Place) -> None:
    versions, key, folder = place
    version = versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    (versions.open(version).folder / "more").symlink_to(folder / "draft")
    with pytest.raises(CorruptVersionError, match="'more'"):
        versions.open(version)


def test_a_signed_manifest_with_a_wrong_size_is_refused(place: Place) -> None:
    versions, key, folder = place
    entry = FileEntry(sha256=hashlib.sha256(b"x").hexdigest(), size_bytes=2)
    manifest = canonical_json(make_manifest(files={"a.json": entry}))
    version = plant(folder / "registry", LANE, manifest, key, {"a.json": b"x"})
    with pytest.raises(CorruptVersionError, match=r"a\.json"):
        versions.open(version)


def test_a_draft_that_is_still_being_written_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    versions, key, folder = place
    draft = make_draft(folder / "draft")
    opened: Callable[[Path], BinaryIO] = durable.open_regular

    def written_meanwhile(path: Path) -> BinaryIO:
        file = opened(path)
        if path.is_relative_to(draft):
            path.write_bytes(path.read_bytes() + b"more")
        return file

    monkeypatch.setattr(blobs, "open_regular", written_meanwhile)
    with pytest.raises(RegistryError, match="changed while"):
        versions.publish(draft, make_manifest(), key)
    monkeypatch.undo()
    versions.publish(draft, make_manifest(), key)
    assert_no_remains(folder / "registry")


def test_links_and_pipes_inside_a_version_are_refused_even_with_the_right_bytes(place: Place) -> None:
    versions, key, folder = place
    version = versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    opened = versions.open(version)
    inner = opened.folder / "encoder"
    inner.rename(folder / "elsewhere")
    inner.symlink_to(folder / "elsewhere")
    with pytest.raises(CorruptVersionError):
        versions.open(version)
    inner.unlink()
    (folder / "elsewhere").rename(inner)
    head = opened.path("head.safetensors")
    head.unlink()
    head.symlink_to(folder / "draft" / "head.safetensors")
    with pytest.raises(RegistryError):
        versions.open(version)
    with pytest.raises(RegistryError):
        opened.read("head.safetensors")
    head.unlink()
    os.mkfifo(head)
    with pytest.raises(RegistryError):
        opened.read("head.safetensors")


@pytest.mark.parametrize("name", ["weights.bin", "run.py", "notes.txt", ".hidden.json"])
def test_a_draft_with_anything_but_json_and_safetensors_is_refused(place: Place, name: str) -> None:
    versions, key, folder = place
    draft = make_draft(folder / "draft")
    (draft / name).write_bytes(b"x")
    with pytest.raises(RegistryError, match=r"only"):
        versions.publish(draft, make_manifest(), key)
    assert versions.list() == []


def test_a_draft_with_a_link_or_without_files_is_refused(place: Place) -> None:
    versions, key, folder = place
    draft = make_draft(folder / "draft")
    (draft / "passwd.json").symlink_to("/etc/passwd")
    with pytest.raises(RegistryError, match="plain"):
        versions.publish(draft, make_manifest(), key)
    (folder / "empty").mkdir()
    with pytest.raises(RegistryError, match="nothing to publish"):
        versions.publish(folder / "empty", make_manifest(), key)


def test_a_version_of_one_lane_is_refused_in_another(place: Place) -> None:
    versions, key, folder = place
    draft = make_draft(folder / "draft")
    version = versions.publish(draft, make_manifest(), key)
    other = Registry(folder / "registry", versions._trusted).versions(OTHER_LANE)
    with pytest.raises(RegistryError, match="for lane acme/intents"):
        other.publish(draft, make_manifest(), key)
    theirs, _ = lane_registry(folder / "registry", OTHER_LANE)
    theirs.mkdir(parents=True, exist_ok=True)
    shutil.copytree(versions.open(version).folder, theirs / version)
    with pytest.raises(CorruptVersionError, match="acme/intents"):
        other.open(version)


@pytest.mark.parametrize("tenant", ["..", "a/b", "", "a\n", "A"])
def test_a_lane_whose_name_is_no_slug_has_no_folder(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(RegistryError, match="lower-case"):
        lane_registry(tmp_path, Lane(tenant, "x"))
    with pytest.raises(RegistryError, match="lower-case"):
        lane_registry(tmp_path, Lane("x", tenant))


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_a_manifest_that_does_not_survive_json_is_refused(place: Place, value: object) -> None:
    versions, key, folder = place
    changes = {"created_s": value} if isinstance(value, float) else {"code_version": value}
    with pytest.raises(RegistryError, match="cannot be written"):
        versions.publish(make_draft(folder / "draft"), make_manifest(**changes), key)


@pytest.mark.parametrize("version", ["", "..", "../../etc", "0" * 16, "0" * 15, "A" * 16, "0" * 16 + "\n"])
def test_an_id_that_is_none_is_unknown(place: Place, version: str) -> None:
    versions, key, folder = place
    versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    with pytest.raises(UnknownVersionError):
        versions.open(version)


def test_a_prefix_resolves_while_it_names_one_version(place: Place) -> None:
    versions, key, folder = place
    draft = make_draft(folder / "draft")
    ids = [versions.publish(draft, make_manifest(seed=seed), key) for seed in range(20)]
    for version in ids:
        assert versions.resolve(version) == version
    by_digit = {digit: [version for version in ids if version[0] == digit] for digit in "0123456789abcdef"}
    for digit, found in by_digit.items():
        if len(found) == 1:
            assert versions.resolve(digit) == found[0]
        else:
            with pytest.raises(UnknownVersionError):
                versions.resolve(digit)
    assert any(len(found) > 1 for found in by_digit.values())
    with pytest.raises(UnknownVersionError):
        versions.resolve("")


def test_forty_head_versions_do_not_cost_forty_encoders(place: Place) -> None:
    versions, key, folder = place
    for number in range(40):
        draft = make_draft(folder / f"draft{number}", head=b"%d" % number, encoder=ENCODER_BYTES)
        versions.publish(draft, make_manifest(seed=number), key)
        shutil.rmtree(draft)
    assert len(versions.list()) == 40
    found = [path.lstat() for path in (folder / "registry").rglob("*") if path.is_file()]
    used = {status.st_ino: status.st_blocks * 512 for status in found}
    assert sum(used.values()) < 1.5 * len(ENCODER_BYTES)
    assert all(versions.open(version).read("encoder/model.safetensors") == ENCODER_BYTES for version in versions.list())


def test_a_rotten_blob_is_not_linked_into_a_new_version(place: Place) -> None:
    versions, key, folder = place
    draft = make_draft(folder / "draft")
    first = versions.publish(draft, make_manifest(), key)
    overwrite(versions.open(first).path("encoder/model.safetensors"), b"rotten!")
    second = versions.publish(draft, make_manifest(seed=8), key)
    assert versions.open(second).read("encoder/model.safetensors") == b"encoder"
    with pytest.raises(CorruptVersionError):
        versions.open(first)


def test_writing_to_the_draft_afterwards_does_not_change_the_version(place: Place) -> None:
    versions, key, folder = place
    draft = make_draft(folder / "draft")
    version = versions.publish(draft, make_manifest(), key)
    (draft / "head.safetensors").write_bytes(b"head two")
    assert versions.open(version).read("head.safetensors") == b"head one"


def test_a_kill_at_any_moment_of_a_publish_leaves_no_version_or_a_whole_one(place: Place) -> None:
    versions, key, folder = place
    start = folder / "crashes" / "start"
    shutil.move(folder / "keys", start / "keys")
    first = versions.publish(make_draft(folder / "draft", head=b"old"), make_manifest(), key)
    shutil.move(folder / "registry", start / "registry")
    make_draft(start / "draft")
    make_draft(folder / "other", head=b"other")
    run = subprocess.run(
        [sys.executable, "-m", "tests.store.crash_publish", "publish", str(start.parent)],
        capture_output=True,
        check=True,
        text=True,
    )
    count = int(run.stdout)
    assert count > 30, "the publish made fewer calls than it has steps"
    outcomes = set()
    for number in range(1, count + 1):
        root = start.parent / str(number) / "registry"
        survivor = Registry(root, versions._trusted).versions(LANE)
        found = survivor.list()
        assert first in found
        outcomes.add(len(found))
        for version in found:
            survivor.open(version)
        other = survivor.publish(folder / "other", make_manifest(seed=3), key)
        assert set(survivor.list()) == {*found, other}
        assert_no_remains(root)
        again = survivor.publish(start / "draft", make_manifest(seed=2), key)
        assert set(survivor.list()) == {first, other, again}
    assert outcomes == {1, 2}


def assert_no_remains(root: Path) -> None:
    """Only the lock, the versions and the blobs they link are left."""
    hidden = [path.name for path in root.rglob(".*")]
    assert hidden == [".lock"]
    used = {path.stat().st_ino for path in root.glob("acme/intents/versions/*/**/*") if path.is_file()}
    assert {path.stat().st_ino for path in (root / "blobs").iterdir()} <= used


def test_two_publishers_at_once_both_succeed(place: Place) -> None:
    versions, _, folder = place
    program = (
        "import sys; from pathlib import Path; from tests.store.drafts import of_schema_1, LANE, make_manifest\n"
        "from store.registry.signing import SigningKey, TrustedKeys; from store.registry.registry import Registry\n"
        "folder = Path(sys.argv[1]); key = SigningKey.load(folder / 'keys' / 'trainer')\n"
        "registry = Registry(folder / 'registry', TrustedKeys.load(folder / 'keys' / 'trusted'))\n"
        "for seed in range(10):\n"
        "    registry.versions(LANE).publish(folder / 'draft', make_manifest(seed=seed + int(sys.argv[2])), key)\n"
    )
    make_draft(folder / "draft")
    runs = [subprocess.Popen([sys.executable, "-c", program, str(folder), offset]) for offset in ("0", "5")]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert len([versions.open(version) for version in versions.list()]) == 15


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def overwriting_link(source: Path, target: Path, link: Callable[[Path, Path], None] = os.link) -> None:
    target.unlink(missing_ok=True)
    link(source, target)


@pytest.mark.parametrize("fake", [no_links, overwriting_link])
def test_a_file_system_without_exclusive_create_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch, fake: Callable[..., None]
) -> None:
    versions, key, folder = place
    monkeypatch.setattr(os, "link", fake)
    registry = Registry(folder / "registry", versions._trusted)
    with pytest.raises(RegistryError, match="file system"):
        registry.require_exclusive_create()
    with pytest.raises(RegistryError, match="file system"):
        versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    with pytest.raises(RegistryError, match="file system"):
        registry.moves(LANE).append("pause", version=None, who="me", why="", key=key, now_s=1.0)
    monkeypatch.undo()
    registry.require_exclusive_create()
    assert [path.name for path in (folder / "registry").iterdir() if path.name != "acme"] == [".lock"]


def test_a_registry_in_place_of_a_file_is_refused(place: Place) -> None:
    versions, key, folder = place
    (folder / "registry").write_text("not a folder")
    with pytest.raises(RegistryError):
        versions.publish(make_draft(folder / "draft"), make_manifest(), key)
    with pytest.raises(RegistryError):
        Registry(folder / "registry", versions._trusted).require_exclusive_create()


def test_a_manifest_from_before_members_were_pooled_can_still_be_shown(place: Place) -> None:
    versions, key, folder = place
    told = of_schema_1(make_manifest(pool_weights=[0.5, 0.5]))
    told["member_weights"] = told.pop("pool_weights")
    version = plant(folder / "registry", LANE, canonical_json(told), key, {})
    record = versions.open(version).manifest.student
    assert isinstance(record, ClassifyRecord)
    assert (record.labels, record.pool_weights) == (["refund", "cancel"], [])
