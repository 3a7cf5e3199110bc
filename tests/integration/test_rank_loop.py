"""A shop's log, imported: through ingest and a cycle into the student's answers; its catalogue, in memory unasked."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from ops.cli.app import app
from ops.init import init
from ops.state.run_files import read_run_file
from tests.ops.children import REPOSITORY
from tests.ops.sites import open_site
from tests.serve.rank.test_whole import Teacher, until
from tests.small_site import LEARNS_AT_ONCE, small_site
from tests.tiny import tiny_encoder
from tests.trainer.rank.lists import CATALOGUE, a_list, scores_of

IMPORTED = 400


@dataclass
class Running:
    """`understudy run all` on an installation with one lane, a shop's."""

    settings: Path

    def call(self, *arguments: str | Path) -> Any:
        done = CliRunner().invoke(app, [*map(str, arguments), "-c", str(self.settings), "-o", "json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def port(self, process: str, *, admin: bool = False) -> int | None:
        found = read_run_file(open_site(self.settings).run_directory, process)
        return None if found is None else found.admin_port if admin else found.port

    def rerank(self, query: str, documents: Sequence[str]) -> dict[str, Any]:
        body = {"model": "shop", "query": query, "documents": list(documents)}
        answer = httpx.post(f"http://127.0.0.1:{self.port('serve')}/rerank", json=body, timeout=60.0)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def vectors(self, what: str) -> float:
        """The gateway's count of documents found, computed or kept."""
        text = httpx.get(f"http://127.0.0.1:{self.port('serve', admin=True)}/metrics", timeout=30.0).text
        (line,) = (one for one in text.splitlines() if one.startswith(f"understudy_document_vectors_{what} "))
        return float(line.rpartition(" ")[2])


@pytest.fixture
def running(tmp_path: Path, redis_url: str) -> Iterator[Running]:
    init(tmp_path)
    teacher = Teacher()
    threading.Thread(target=teacher.serve_forever, daemon=True).start()
    path = tmp_path / "understudy.toml"
    encoder = tiny_encoder(tmp_path / "encoder", layers=3)
    lane = {
        "use_case": "shop",
        "task": "rank",
        "audit_ratio": 0.0,
        "promise.target": 0.8,
        "promise.confidence": 0.8,
        "teacher.base_url": teacher.url,
        "teacher.kind": "rerank",
        "teacher.model": "reranker-1",
    }
    path.write_text(small_site(encoder, LEARNS_AT_ONCE | {"redis.url": redis_url, "trainer.fine_tune": False}, lane))
    with (
        (tmp_path / "all.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "run", "all", "-c", path], cwd=REPOSITORY, stdout=log, stderr=log
        ) as process,
    ):
        made = Running(path)
        try:

            def runs() -> bool:
                assert process.poll() is None, (tmp_path / "all.log").read_text()
                return made.port("serve") is not None

            until("the gateway runs", runs)
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            teacher.shutdown()
            teacher.server_close()


def rows(count: int, rng: Random) -> Iterator[dict[str, Any]]:
    """Lists with the scores of a teacher that has favourites."""
    for _ in range(count):
        asked = a_list(rng)
        teacher = {"model": "reranker-1", "scores": scores_of(asked, rng)}
        yield {"query": asked.query, "documents": list(asked.documents), "teacher": teacher}


@pytest.mark.timeout(900)
def test_a_log_of_rankings_becomes_a_student_and_a_catalogue_is_known_before_it_is_asked_for(
    running: Running, tmp_path: Path
) -> None:
    rng = Random(3)
    log = tmp_path / "rerank.jsonl"
    log.write_text("".join(f"{json.dumps(row)}\n" for row in rows(IMPORTED, rng)))
    assert running.call("import", log)["published"] == IMPORTED
    cycles = open_site(running.settings).run_directory / "cycles.jsonl"
    until("a cycle", cycles.exists)
    cycle = json.loads(cycles.read_text("utf-8").splitlines()[0])
    assert (cycle["kind"], cycle["verdict"]) == ("head", "pass"), cycle
    until("it serves", lambda: set(running.call("status")["lanes"][0]["served"].values()) == {cycle["version"]})

    lists = [a_list(rng) for _ in range(20)]
    answers = [running.rerank(asked.query, asked.documents) for asked in lists]
    assert {answer["version"] for answer in answers if answer["served_by"] == "student"} == {cycle["version"]}
    assert running.call("verify")["complete"]  # which ends with 0 where it finds nothing wrong

    words = ["please", "today", "with", "my"]
    catalogue = [f"{one} {words[number % 4]}" for number, one in enumerate(CATALOGUE)]  # nobody has asked for any
    items = tmp_path / "items.jsonl"
    items.write_text("".join(f"{json.dumps({'text': text})}\n" for text in catalogue))
    assert running.call("catalogue", "load", items)["computed"] == len(catalogue)
    asked_for = {document for asked in lists for document in asked.documents}
    until("its vectors are in memory", lambda: running.vectors("kept") >= len(asked_for) + len(catalogue))
    found, computed = running.vectors("found"), running.vectors("computed")
    assert len(running.rerank("money please", catalogue)["results"]) == len(catalogue)
    until("all of them are found", lambda: running.vectors("found") == found + len(catalogue))
    assert running.vectors("computed") == computed, "the first request for them is as cheap as any other"
    running.rerank("money please", [*catalogue[:5], "a parcel that is in no catalogue"])
    until("the one that is new is computed", lambda: running.vectors("computed") == computed + 1)
