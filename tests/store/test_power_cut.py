"""What was acknowledged outlives a power cut, and no power cut leaves half a thing that looks whole."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from store.registry.files import durable
from store.registry.registry import Registry
from store.registry.signing import SigningKey, TrustedKeys, public_path
from store.secrets import DataSecret
from tests.power_cut import Disk, PowerCut, outcomes, recording
from tests.store.drafts import LANE, make_draft, make_keys, make_manifest


class Place:
    """A machine's disk, and a desk beside it where outcomes are looked at."""

    def __init__(self, folder: Path) -> None:
        self.disk, self.aside = folder / "disk", folder / "aside"
        self.disk.mkdir()
        self.aside.mkdir()
        self.key, self.trusted = make_keys(folder / "keys")
        self.drafts = [make_draft(folder / f"draft-{n}", head=b"head %d" % n) for n in range(2)]

    def registry(self, disk: Path) -> Registry:
        return Registry(disk / "state" / "registry", self.trusted)

    def publish(self, number: int) -> str:
        manifest = make_manifest(seed=number)
        return self.registry(self.disk).versions(LANE).publish(self.drafts[number], manifest, self.key)

    def promote(self, version: str) -> int:
        moves = self.registry(self.disk).moves(LANE)
        return moves.append("promote", version=version, who="t", why="w", key=self.key, now_s=1.0).number

    def look(self, disk: Path) -> tuple[list[str], int]:
        """The versions, each opened, and the length of the chain, verified."""
        versions = self.registry(disk).versions(LANE)
        found = versions.list()
        for version in found:
            assert len(versions.open(version).files) == 3
        return found, len(self.registry(disk).moves(LANE).read())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_version_and_a_move_that_were_acknowledged_outlive_a_power_cut(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a registry that was never there before: its own folders' names are as new as what lies in them."""
    made: list[str] = []
    with recording(place.disk, monkeypatch) as power:
        for number in range(2):
            made.append(place.publish(number))
            for disk in outcomes(power, place.aside):
                assert place.look(disk) == (sorted(made), number)
            assert place.promote(made[-1]) == number + 1
            for disk in outcomes(power, place.aside):
                assert place.look(disk) == (sorted(made), number + 1)


def test_a_power_cut_at_any_moment_leaves_no_half_version_and_no_broken_chain(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Disk] = []
    looked = acknowledged = 0

    def look(power: PowerCut) -> None:
        nonlocal looked
        for disk in outcomes(power, place.aside, seen):
            looked += 1
            assert place.look(disk)[1] >= acknowledged

    with recording(place.disk, monkeypatch, before_each=look):
        for number in range(2):
            place.promote(place.publish(number))
            acknowledged += 1
            seen.clear()
    assert looked > 50


def test_a_version_that_another_writer_named_and_did_not_sync_is_durable_once_it_is_published_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, folder = durable.sync_folder, place.disk / "state" / "registry" / LANE.tenant / LANE.use_case / "versions"
    with recording(place.disk, monkeypatch) as power:
        with monkeypatch.context() as patch:  # it dies after the rename
            patch.setattr("store.registry.versions.sync_folder", lambda path: None if path == folder else real(path))
            version = place.publish(0)
        assert [place.look(disk)[0] for disk in outcomes(power, place.aside)] == [[], [version]]
        assert place.publish(0) == version
        assert [place.look(disk)[0] for disk in outcomes(power, place.aside)] == [[version]]


def test_a_fresh_key_outlives_a_power_cut_with_both_its_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, aside = tmp_path / "disk", tmp_path / "aside"
    (disk / "trusted").mkdir(parents=True)
    aside.mkdir()
    with recording(disk, monkeypatch) as power:
        key = SigningKey.create(disk / "ada", "ada")
        key.write_public(disk / "trusted" / "ada.pub")
        for found in outcomes(power, aside):
            signature = SigningKey.load(found / "ada").sign(b"x")
            assert TrustedKeys.load(found / "trusted").verify(b"x", signature) == "ada"
            assert public_path(found / "ada").read_bytes() == (found / "trusted" / "ada.pub").read_bytes()


def test_a_fresh_data_secret_outlives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, aside = tmp_path / "disk", tmp_path / "aside"
    disk.mkdir()
    aside.mkdir()
    with recording(disk, monkeypatch) as power:
        DataSecret.create(disk / "data.secret")
        made = DataSecret.load(disk / "data.secret")
        for found in outcomes(power, aside):
            assert DataSecret.load(found / "data.secret") == made


def test_an_appended_line_outlives_a_power_cut_the_first_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, aside = tmp_path / "disk", tmp_path / "aside"
    disk.mkdir()
    aside.mkdir()
    written = b""
    with recording(disk, monkeypatch) as power:
        for line in (b"one", b"two", b"three"):
            durable.append_line(disk / "cycles.jsonl", line)
            written += line + b"\n"
            for found in outcomes(power, aside):
                assert (found / "cycles.jsonl").read_bytes() == written


@pytest.mark.parametrize("write", [durable.create, durable.replace])
def test_a_written_file_outlives_a_power_cut_and_is_never_there_by_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    disk, aside = tmp_path / "disk", tmp_path / "aside"
    disk.mkdir()
    aside.mkdir()
    if write is durable.replace:
        (disk / "it").write_bytes(b"old")

    def look(power: PowerCut) -> None:
        for found in outcomes(power, aside):
            if (found / "it").exists():
                assert (found / "it").read_bytes() in {b"old", b"new"}
            else:
                assert write is durable.create

    with recording(disk, monkeypatch, before_each=look) as power:
        write(disk / "it", b"new")
        for found in outcomes(power, aside):
            assert (found / "it").read_bytes() == b"new"


def test_the_recorder_sees_what_was_never_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, aside = tmp_path / "disk", tmp_path / "aside"
    disk.mkdir()
    aside.mkdir()
    with recording(disk, monkeypatch) as power:
        (disk / "a").write_bytes(b"a")
        seen = [{path.name: path.read_bytes() for path in found.iterdir()} for found in outcomes(power, aside)]
        assert seen == [{}, {"a": b""}]
        with (disk / "a").open("ab") as file:
            power.fsyncs_to_fail = 1
            with pytest.raises(OSError, match="Input/output"):
                os.fsync(file.fileno())
            os.fsync(file.fileno())  # and says that all is well
        durable.sync_folder(disk)
        assert [(found / "a").read_bytes() for found in outcomes(power, aside)] == [b""]
