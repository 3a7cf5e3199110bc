"""Keys by command: a person signs as themselves, and what an old key signed stays good after a rotation."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.cli.app import app
from store.registry.signing import SigningKey, TrustedKeys
from tests.ops.sites import LANE, make_site, open_site, publish
from tests.power_cut import Disk, PowerCut, outcomes, recording


def call(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def answer(*arguments: str | Path) -> Any:
    return json.loads(call(*arguments, "-o", "json"))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """An installation with the keys that `init` made."""
    return make_site(tmp_path / "site")


def test_a_person_signs_as_themselves_and_history_says_so(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(settings, b"one", b"two")
    made = answer("keys", "add", "ada", "--config", settings)
    assert Path(made["private"]).stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("UNDERSTUDY_KEYS__OPERATOR", made["private"])
    call("rollback", "--config", settings, "--reason", "because", "-o", "json")
    moves = open_site(settings).registry.moves(LANE).read()
    assert [move.who for move in moves] == ["trainer", "trainer", "ada"]


def test_after_a_rotation_old_signatures_are_good_and_new_ones_are_made_with_the_new_key(settings: Path) -> None:
    versions = publish(settings, b"one", b"two")
    before = SigningKey.load(open_site(settings).settings.keys.operator)
    call("rollback", "--config", settings, "-o", "json")
    for name in ("operator", "trainer"):
        made = answer("keys", "rotate", name, "--config", settings)
        assert SigningKey.load(Path(made["private"])).name == name
        assert SigningKey.load(Path(made["retired"])).name == name
    call("resume", "--config", settings, "-o", "json")
    site = open_site(settings)
    assert SigningKey.load(site.settings.keys.operator).key_id != before.key_id
    assert [move.who for move in site.registry.moves(LANE).read()] == ["trainer", "trainer", "operator", "operator"]
    assert site.registry.versions(LANE).open(versions[0]).signed_by == "trainer"
    publish(settings, b"three")
    assert len(site.registry.moves(LANE).read()) == 5


def test_a_second_rotation_keeps_every_old_key(settings: Path) -> None:
    for _ in range(2):
        answer("keys", "rotate", "operator", "--config", settings)
    shown = answer("keys", "list", "--config", settings)
    assert [key["name"] for key in shown] == ["operator"] * 3 + ["trainer"]
    assert len({key["key_id"] for key in shown}) == 4
    assert not list(settings.parent.rglob(".*.new*"))


@pytest.mark.parametrize("stage", range(4))
def test_a_rotation_that_is_cut_short_leaves_a_key_that_signs_and_can_be_run_again(
    settings: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    steps: list[object] = []
    replace, link = Path.replace, Path.hardlink_to

    def counted(real: Any) -> Any:
        def step(path: Path, target: Path) -> Any:
            if len(steps) == stage:
                raise KeyboardInterrupt
            steps.append(path)
            return real(path, target)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted(replace))
        patch.setattr(Path, "hardlink_to", counted(link))
        assert CliRunner().invoke(app, ["keys", "rotate", "operator", "--config", str(settings)]).exit_code != 0
    keys = open_site(settings).settings.keys
    assert TrustedKeys.load(keys.trusted).verify(b"x", SigningKey.load(keys.operator).sign(b"x")) == "operator"
    answer("keys", "rotate", "operator", "--config", settings)
    assert TrustedKeys.load(keys.trusted).verify(b"x", SigningKey.load(keys.operator).sign(b"x")) == "operator"


@pytest.mark.parametrize("name", ["../ada", "a/b", "", "a b", "operator"])
def test_a_name_that_is_taken_or_is_no_name_is_refused_and_nothing_is_made(settings: Path, name: str) -> None:
    before = sorted(settings.parent.rglob("*"))
    call("keys", "add", "--config", settings, "--", name, code=4 if name == "operator" else 2)
    assert sorted(settings.parent.rglob("*")) == before


def test_a_person_without_a_key_cannot_rotate_one(settings: Path) -> None:
    assert "bob" in call("keys", "rotate", "bob", "--config", settings, code=2)


@pytest.mark.parametrize("name", ["operator", "trainer"])
def test_a_power_cut_at_any_moment_of_a_rotation_leaves_a_key_that_signs_and_every_old_one_trusted(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    keys, aside = settings.parent / "keys", tmp_path / "aside"
    aside.mkdir()
    old = SigningKey.load(keys / name)
    seen: list[Disk] = []
    looked = 0

    def look(power: PowerCut) -> None:
        nonlocal looked
        for disk in outcomes(power, aside, seen):
            looked += 1
            trusted = TrustedKeys.load(disk / "trusted")
            assert trusted.verify(b"x", SigningKey.load(disk / name).sign(b"x")) == name
            assert trusted.verify(b"x", old.sign(b"x")) == name
            kept = [disk / name, *disk.glob(f"{name}-*.retired")]
            assert old.key_id in {SigningKey.load(path).key_id for path in kept}

    with recording(keys, monkeypatch, before_each=look) as power:
        call("keys", "rotate", name, "--config", settings)
        fresh = SigningKey.load(keys / name)
        assert [SigningKey.load(disk / name).key_id for disk in outcomes(power, aside)] == [fresh.key_id]
    assert looked > 10
    assert fresh.key_id != old.key_id


def test_a_key_that_was_added_and_an_installation_that_was_made_outlive_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, aside = tmp_path / "disk", tmp_path / "aside"
    disk.mkdir()
    aside.mkdir()
    with recording(disk, monkeypatch) as power:
        call("init", disk / "site")
        call("keys", "add", "ada", "--config", disk / "site" / "understudy.toml")
        made = {path.relative_to(disk): path.read_bytes() for path in disk.rglob("*") if path.is_file()}
        for found in outcomes(power, aside):
            assert {path.relative_to(found): path.read_bytes() for path in found.rglob("*") if path.is_file()} == made
    assert len(made) == 13
