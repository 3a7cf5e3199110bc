"""A machine is lost under traffic, and another one made from its backup: the same answers, of all three tasks."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from ops.cli.app import app
from ops.init import init
from ops.state.run_files import read_run_file
from tests.integration.test_rank_loop import rows
from tests.ops.children import REPOSITORY
from tests.ops.sites import open_site
from tests.serve.chat.teacher import teaching
from tests.serve.rank.test_whole import Teacher, until
from tests.small_site import LEARNS_AT_ONCE, small_site
from tests.tiny import questions, tiny_encoder
from tests.trainer.chat.talks import a_talk, schooled_decoder
from tests.trainer.rank.lists import a_list

LABELS = ("delivery", "login", "refund")


class Machine:
    """An installation with its own private Redis, and `understudy run all` on it."""

    def __init__(self, settings: Path) -> None:
        self.settings = settings

    @contextmanager
    def running(self) -> Iterator["Machine"]:
        log = self.settings.parent / "all.log"
        with (
            log.open("ab") as file,
            subprocess.Popen(
                [sys.executable, "-m", "ops.cli", "run", "all", "-c", self.settings],
                cwd=REPOSITORY,
                stdout=file,
                stderr=file,
            ) as process,
        ):

            def runs() -> bool:
                assert process.poll() is None, log.read_text()
                return self.port is not None

            try:
                until("the gateway runs", runs)
                yield self
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(90)

    def call(self, *arguments: str | Path) -> Any:
        done = CliRunner().invoke(app, [*map(str, arguments), "-c", str(self.settings), "-o", "json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    @property
    def port(self) -> int | None:
        found = read_run_file(open_site(self.settings).run_directory, "serve")
        return None if found is None else found.port

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        found = httpx.post(f"http://127.0.0.1:{self.port}{path}", json=body, timeout=120.0)
        assert found.status_code == 200, found.text
        return found

    def lanes(self) -> dict[str, Any]:
        return {lane["lane"]: lane for lane in self.call("status")["lanes"]}

    def serves(self) -> dict[str, str | None]:
        """What every lane's gateway serves."""
        return {name: next(iter(lane["served"].values()), None) for name, lane in self.lanes().items()}

    def answers(self) -> dict[str, list[Any]]:
        """What the students say to the same questions: who said it, by which version, and what."""
        texts, _ = questions(20, seed=5)
        rng = Random(11)
        lists, talks = [a_list(rng) for _ in range(15)], [a_talk(rng)[0] for _ in range(10)]
        found: dict[str, list[Any]] = {"classify": [], "rank": [], "chat": []}
        for text in texts:
            (one,) = self.post("/classify", {"model": "classifys", "input": text}).json()["data"]
            if one["served_by"] == "student":
                found["classify"].append((text, one["version"], one["label"]))
        for asked in lists:
            body = {"model": "ranks", "query": asked.query, "documents": list(asked.documents)}
            answer = self.post("/rerank", body).json()
            if answer["served_by"] == "student":
                order = [(row["index"], row["relevance_score"]) for row in answer["results"]]
                found["rank"].append((asked.query, answer["version"], order))
        for talk in talks:
            messages = [{"role": one.role, "content": one.content} for one in talk.messages]
            response = self.post("/v1/chat/completions", {"model": "chats", "messages": messages})
            if response.headers["x-understudy-served-by"] == "student":
                said = response.json()["choices"][0]["message"]["content"]
                found["chat"].append((messages[-1]["content"], response.headers["x-understudy-version"], said))
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "old"
    init(folder)
    encoder, model = tiny_encoder(tmp_path / "encoder", layers=3), schooled_decoder(tmp_path / "decoder")
    ranking = Teacher()
    threading.Thread(target=ranking.serve_forever, daemon=True).start()
    with (
        teaching(lambda messages: f'{{"t":"{messages[-1]["content"][0]}"}}') as talking,
        teaching(lambda _: "refund") as sorting,
    ):
        values = LEARNS_AT_ONCE | {
            "trainer.fine_tune": False,
            "trainer.min_items_per_label": 5,
            "gate.min_rows": 20,
            "gate.delta": 0.1,
        }
        priced = {
            "audit_ratio": 0.05,
            "promise.target": 0.5,
            "promise.confidence": 0.8,
            "teacher.input_usd_per_mtok": 1.0,
            "teacher.output_usd_per_mtok": 1.0,
        }
        lanes: list[dict[str, object]] = [
            {
                "task": "classify",
                "labels": LABELS,
                "teacher.base_url": sorting.url,
                "teacher.prompt_file": "prompts/classify.txt",
            },
            {"task": "rank", "teacher.base_url": ranking.url, "teacher.kind": "rerank"},
            {
                "task": "chat",
                "chat.max_prompt_tokens": 200,
                "chat.max_answer_tokens": 16,
                "student.model": str(model),
                "teacher.base_url": talking.url,
            },
        ]
        path = folder / "understudy.toml"
        path.write_text(small_site(encoder, values, *(priced | {"use_case": f"{one['task']}s"} | one for one in lanes)))
        yield Machine(path)
    ranking.shutdown()
    ranking.server_close()


def learned(machine: Machine, folder: Path) -> None:
    """A student of every lane, from a log each."""
    rng = Random(3)
    texts, labels = questions(240, seed=2)
    talks = [a_talk(rng) for _ in range(200)]
    logs = {
        "classifys": [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)],
        "ranks": list(rows(300, rng)),
        "chats": [
            {"messages": [{"role": one.role, "content": one.content} for one in asked.messages], "answer": said}
            for asked, said in talks
        ],
    }
    for use_case, found in logs.items():
        for row in found:
            if "teacher" in row:
                row["teacher"]["model"] = "big"
        log = folder / f"{use_case}.jsonl"
        log.write_text("".join(f"{json.dumps(row)}\n" for row in found))
        machine.call("import", log, "--lane", f"acme/{use_case}")
    until("every lane has a champion", lambda: all(lane["champion"] for lane in machine.lanes().values()))
    until("all of them serve", lambda: machine.serves() == {n: o["champion"] for n, o in machine.lanes().items()})


@pytest.mark.long  # tests/ops/test_backup*.py hold every part of it: here it is asked for its answers
@pytest.mark.timeout(1500)
def test_an_empty_machine_gives_the_same_answers_from_the_same_versions(machine: Machine, tmp_path: Path) -> None:
    backup, stop = tmp_path / "backup.tar.zst", threading.Event()

    def traffic() -> None:
        texts, _ = questions(5000, seed=77)
        for text in texts:
            if stop.is_set():
                return
            with suppress(httpx.HTTPError):
                machine.post("/classify", {"model": "classifys", "input": f"{text} {text}"})

    with machine.running():
        learned(machine, tmp_path)
        before = machine.answers()
        assert min(len(found) for found in before.values()) >= 3, before
        serving = machine.serves()
        asking = threading.Thread(target=traffic)
        asking.start()
        try:
            made = machine.call("backup", backup, "--with-keys")
        finally:
            stop.set()
            asking.join()
        assert made["problems"] == []
        assert {lane["lane"]: lane["champion"] for lane in made["lanes"]} == serving
        spent = {name: lane["money"]["start"] for name, lane in machine.lanes().items()}

    new = Machine(tmp_path / "new" / "understudy.toml")
    new.settings.parent.mkdir()
    found = new.call("restore", backup)
    assert (found["verified"]["ok"], found["verified"]["complete"], found["signed_by"]) == (True, True, None)
    with new.running():
        until("the same versions serve", lambda: new.serves() == serving)
        assert new.answers() == before
        until("all is read", lambda: all(lane["buffer"]["lag_records"] == 0 for lane in new.lanes().values()))
        for name, lane in new.lanes().items():
            assert lane["money"]["start"]["student"] > 0
            if name != "acme/classifys":  # nobody asked these while the backup was made
                assert lane["money"]["start"]["student"] >= spent[name]["student"]
        assert new.call("verify")["ok"]
