"""`understudy init`: everything that a first start needs, and nothing is ever lost."""

from pathlib import Path

import pytest

from ops.init import init
from ops.settings import Settings
from store.errors import SettingsError
from store.registry.signing import SigningKey, TrustedKeys
from store.secrets import DataSecret


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_init_makes_is_ready_to_load(tmp_path: Path) -> None:
    made = init(tmp_path / "new" / "folder")
    settings = Settings.load(tmp_path / "new" / "folder" / "understudy.toml")
    trusted = TrustedKeys.load(settings.keys.trusted)
    assert trusted.verify(b"x", SigningKey.load(settings.keys.trainer).sign(b"x")) == "trainer"
    assert trusted.verify(b"x", SigningKey.load(settings.keys.operator).sign(b"x")) == "operator"
    assert len(DataSecret.load(settings.keys.data_secret).value) == 32
    prompt_file = settings.lanes[0].teacher.prompt_file
    assert prompt_file is not None
    prompt = prompt_file.read_text()
    assert "$text" in prompt
    assert "$labels" in prompt
    assert all(entry.made for entry in made)
    named = {Path(entry.path) for entry in made}
    beside = {settings.keys.trainer.with_name(f"{name}.pub") for name in ("trainer", "operator")}
    assert named | beside == {path for path in (tmp_path / "new" / "folder").rglob("*") if path.is_file()}


def test_an_example_of_chat_is_ready_to_load_and_names_a_model_to_grow_on(tmp_path: Path) -> None:
    *_, last = init(tmp_path, task="chat")
    assert "the student's model" in last.what
    (lane,) = Settings.load(tmp_path / "understudy.toml").lanes
    assert (lane.task, lane.student.model, lane.teacher.prompt_file, lane.labels) == ("chat", "smollm2", None, ())
    assert not (tmp_path / "prompts").exists()  # its teacher gets the client's own messages


def test_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    init(tmp_path)
    for name in ("data.secret", "keys/trainer", "keys/operator", "understudy.toml"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600, name
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_a_second_init_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    init(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(SettingsError, match=r"understudy\.toml is there already: --force"):
        init(tmp_path)
    assert contents(tmp_path) == before


def test_force_writes_the_settings_anew_and_keeps_keys_secret_and_prompt(tmp_path: Path) -> None:
    init(tmp_path)
    fresh = contents(tmp_path)
    (tmp_path / "understudy.toml").write_text("changed")
    (tmp_path / "prompts" / "classify.txt").write_text("my own $text")
    made = init(tmp_path, force=True)
    assert contents(tmp_path) == fresh | {"prompts/classify.txt": b"my own $text"}
    assert [Path(entry.path).name for entry in made if entry.made] == ["understudy.toml"]
    assert (tmp_path / "understudy.toml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "lost", ["keys/trusted/trainer.pub", "keys/operator.pub", "data.secret", "prompts/classify.txt"]
)
def test_half_an_init_is_completed_by_the_next(tmp_path: Path, lost: str) -> None:
    init(tmp_path)
    before = contents(tmp_path)
    (tmp_path / lost).unlink()
    (tmp_path / "understudy.toml").unlink()
    init(tmp_path)
    after = contents(tmp_path)
    keys = {name for name in before if name.startswith("keys/") and name != "keys/operator.pub"}
    assert {name: after[name] for name in keys} == {name: before[name] for name in keys}
    Settings.load(tmp_path / "understudy.toml")
    DataSecret.load(tmp_path / "data.secret")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match="cannot be prepared"):
        init(tmp_path / "file" / "inner")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "keys").write_text("x")
    with pytest.raises(SettingsError, match="cannot be prepared"):
        init(tmp_path / "other")
