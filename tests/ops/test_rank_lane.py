"""A lane of rankings from its first step on: init, and every command that a lane of labels knows."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from typer.testing import CliRunner, Result

from ops.cli.app import app
from ops.exits import FAILED_CHECK, REFUSED
from ops.settings import Settings
from ops.site import Site
from ops.wiring.train import check_train
from store.errors import SettingsError
from store.event import EscalationCause, RankAnswer, RankEscalation, RankInput, encode, new_event_id, utc
from tests.contracts.escalations import START_S
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand, until
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


DOCUMENTS: Final = ("late", "broken", "lost")
SCORES: Final = {"late": 0.9, "broken": 0.5, "lost": 0.1}


class Reranker(ThreadingHTTPServer):
    """A teacher that scores as it always did, a little lower; but the other way round where a query has a word."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.other_where = "nowhere"
        reranker = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reranker.asked.append(body["query"])
                sign = -1 if reranker.other_where in body["query"] else 1
                scores = [sign * SCORES[one] - 0.02 for one in body["documents"]]
                results = [{"index": place, "relevance_score": one} for place, one in enumerate(scores)]
                data = json.dumps({"results": results}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def asked_again(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stand, Reranker]]:
    """A lane of rankings with six answers of an older prompt version, and its teacher."""
    monkeypatch.setenv("RERANK_API_KEY", "a-key-of-no-use")
    with ExitStack() as stack, Reranker() as reranker:
        path = made(tmp_path / "site", "--teacher", "rerank")
        text = path.read_text().replace("unix:///nowhere/redis.sock", redis_url)
        url = f"http://127.0.0.1:{reranker.server_address[1]}/v1"
        text = re.sub(r"(?m)^#?base_url = .*$", f'base_url = "{url}"', text)
        path.write_text(re.sub(r"(?m)^#?api_key_env = .*$", 'api_key_env = "RERANK_API_KEY"', text))
        thread = threading.Thread(target=reranker.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(reranker.shutdown)
        stand = Stand(path, stack)
        for number in range(6):
            event = RankEscalation(
                id=new_event_id(START_S + number, Random(number)),
                time=utc(START_S + number),
                use_case=LANE.use_case,
                tenant=LANE.tenant,
                input=RankInput(query=f"question {number}", documents=list(DOCUMENTS)),
                teacher=RankAnswer(model=stand.model, prompt_version="0" * 16, scores=[*SCORES.values()]),
                student=None,
                escalation=EscalationCause(reason="forced", threshold=None, propensity=1.0),
            )
            stand.appender.append(TOPIC, key=b"k", value=encode(event)).result(30)
        with stand.ingesting():
            until(lambda: stand.counters.counted == 6)
        yield stand, reranker


def accepted(stand: Stand, at_least: float) -> Result:
    more = ["--sample", "6", "--yes", "--at-least", at_least, "--reason", "a newer model"]
    return call("prompt", "accept", "--from", "0" * 16, *more, "-c", stand.path, "-o", "json")


def test_rankings_are_asked_again_and_accepted_where_they_are_the_same_within_the_tolerance(
    asked_again: tuple[Stand, Reranker],
) -> None:
    stand, reranker = asked_again
    done = accepted(stand, 0.5)
    assert done.exit_code == 0, done.output
    assert sorted(reranker.asked) == [f"question {number}" for number in range(6)]
    found = json.loads(done.stdout)
    assert (found["sample"]["asked"], found["sample"]["agreed"], found["done"]) == (6, 6, True)
    with stand.ingesting():
        until(lambda: stand.counters.counted == 12)
    assert {len(item.tally) for item in stand.buffer.items(LANE)} == {2}, "the same questions, answered once more"
    assert stand.verify().ok


def test_rankings_that_are_others_now_are_not_accepted(asked_again: tuple[Stand, Reranker]) -> None:
    stand, reranker = asked_again
    reranker.other_where = "question 4"
    refused = accepted(stand, 0.9)
    assert refused.exit_code == FAILED_CHECK, refused.output
    assert "5 of 6 answers are as before" in " ".join(refused.stderr.split())
    assert stand.site.registry.rulings(LANE).read() == []


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
