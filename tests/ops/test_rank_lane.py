"""A lane of rankings from its first step on: init, and every command that a lane of labels knows."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ops.cli.app import app
from ops.exits import REFUSED
from ops.settings import Settings
from ops.site import Site
from ops.wiring.train import check_train
from store.errors import SettingsError
from tests.tiny import tiny_cross_encoder


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def made(folder: Path, *more: str) -> Path:
    """A folder that `init` has prepared for rankings; the settings file."""
    result = call("init", folder, "--task", "rank", *more)
    assert result.exit_code == 0, result.output
    path = folder / "understudy.toml"
    text = path.read_text().replace("training_permitted = false", "training_permitted = true")
    path.write_text(text.replace('#url = ""', 'url = "unix:///nowhere/redis.sock"'))
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return made(tmp_path / "site")


def test_init_makes_a_lane_of_rankings_with_a_prompt_in_one_step(settings: Path) -> None:
    (lane,) = Settings.load(settings).lanes
    assert (lane.task, lane.labels, lane.teacher.kind) == ("rank", (), "chat")
    assert lane.teacher.prompt_file is not None
    prompt = lane.teacher.prompt_file.read_text()
    assert "$query" in prompt
    assert "$documents" in prompt
    assert "$labels" not in prompt


def test_init_makes_a_lane_of_rankings_with_a_reranker_in_one_step(tmp_path: Path) -> None:
    (lane,) = Settings.load(made(tmp_path / "site", "--teacher", "rerank")).lanes
    assert (lane.task, lane.teacher.kind, lane.teacher.prompt_file) == ("rank", "rerank", None)
    assert not (tmp_path / "site" / "prompts").exists()


def test_init_without_a_task_is_as_it_was(tmp_path: Path) -> None:
    assert call("init", tmp_path / "site").exit_code == 0
    (lane,) = Settings.load(tmp_path / "site" / "understudy.toml").lanes
    assert (lane.task, lane.teacher.kind, len(lane.labels)) == ("classify", "chat", 3)


def test_a_reranker_for_labels_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    refused = call("init", tmp_path / "site", "--teacher", "rerank")
    assert refused.exit_code == 2
    assert "there is no example of such a lane" in refused.stderr
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("command", [["list"], ["add", "x"]])
def test_a_lane_of_rankings_has_no_labels_and_says_so(settings: Path, command: list[str]) -> None:
    refused = call("labels", *command, "-c", settings)
    assert refused.exit_code == REFUSED
    assert "acme/support is a lane of rank: it has no labels" in " ".join(refused.stderr.split())


def test_a_sample_of_labels_is_not_asked_of_a_lane_of_rankings(settings: Path) -> None:
    more = ["--from", "1a2b", "--sample", "5", "--reason", "why"]
    refused = call("prompt", "accept", *more, "-c", settings)
    assert refused.exit_code == REFUSED
    assert "is a lane of rank: --sample compares labels" in " ".join(refused.stderr.split())


def test_status_prints_the_tolerance_with_the_promise(settings: Path) -> None:
    shown = call("status", "-c", settings)
    assert shown.exit_code == 3  # nothing answers here
    assert "first place within 0.05 of the teacher's own score" in " ".join(shown.stdout.split())
    found = json.loads(call("status", "-c", settings, "-o", "json").stdout)
    assert found["lanes"][0]["promise"]["agreement"] == "first place within 0.05 of the teacher's own score"


def test_history_and_producers_know_a_lane_of_rankings(settings: Path) -> None:
    assert call("history", "-c", settings).exit_code == 0
    (wanted,) = json.loads(call("producers", "-c", settings, "-o", "json").stdout)
    assert (wanted["task"], wanted["labels"]) == ("rank", [])


def test_a_dry_run_of_an_import_of_rankings_says_what_was_found_and_where(tmp_path: Path, settings: Path) -> None:
    path = tmp_path / "log.jsonl"
    row = {"query": "q", "documents": ["a mail to joe@example.org", "b"], "teacher": {"scores": [0.2, 0.9]}}
    rows = [{**row, "query": f"q{n}"} for n in range(5)] + [{**row, "teacher": {"scores": [1]}}]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    result = call("import", path, "--dry-run", "-c", settings, "-o", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["published"], found["skipped"]) == (5, 1)
    assert found["columns"] == {"query": "query", "documents": "documents", "scores": "teacher.scores"}
    assert found["bad"] == [{"line": 6, "why": "teacher.scores has 1 scores for 2 documents"}]
    assert any("a tolerance of" in note for note in found["notes"])
    refused = call("import", path, "--dry-run", "-c", settings, "--label", "x")
    assert refused.exit_code == 2
    assert "--label: a log of the task rank has no such column" in " ".join(refused.stderr.split())


def test_a_base_that_students_of_rankings_cannot_stand_on_stops_the_trainers_start(settings: Path) -> None:
    tiny_cross_encoder(settings.parent / "three", layers=1, outputs=3)
    tiny_cross_encoder(settings.parent / "one", layers=1)
    plain = settings.read_text()

    def check(encoder: str) -> None:
        settings.write_text(plain.replace("[lanes.student]\n", f'[lanes.student]\nencoder = "{encoder}"\n'))
        check_train(Site(Settings.load(settings)))

    with pytest.raises(SettingsError, match=r"lanes\.student\.encoder of acme/support: .*3 outputs"):
        check("three")
    with pytest.raises(SettingsError, match=r"lanes\.student\.encoder of acme/support .*nowhere: it lacks"):
        check("nowhere")
    check("one")
