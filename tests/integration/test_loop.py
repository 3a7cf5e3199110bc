"""The whole loop on real text: Kafka, Redis, a fine-tuned encoder, a hot swap, and back by rollback."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.init import init
from tests.kafka.broker import Broker

IMPORTED = 1000
ASKED = 60
READY_S = 180.0
CYCLE_S = 900.0
SETTINGS = """
[log]
kind = "kafka"
bootstrap = "127.0.0.1:{kafka_port}"
partitions = 2

[gateway]
port = 0

[admin]
serve_port = 0
ingest_port = 0
train_port = 0

[trainer]
quarantine_s = 0.0
min_new_labels = 100000
fine_tune = false

[split]
calibrate_ratio = 0.25
judge_ratio = 0.2

[gate]
delta = 0.05
min_rows = 100

[[lanes]]
tenant = "acme"
use_case = "feelings"
labels = ["anger", "disgust", "fear", "guilt", "joy", "sadness", "shame"]
training_permitted = true

[lanes.promise]
target = 0.7

[lanes.budget]
calls_per_day = 100000

[lanes.teacher]
base_url = "http://127.0.0.1:{teacher_port}/v1"
model = "recorded"
prompt_file = "prompts/classify.txt"
"""


class Running:
    """`understudy run all` and a recorded teacher, as a user would start them."""

    def __init__(self, folder: Path, rows: Path) -> None:
        self.folder = folder
        self.rows = rows
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> None:
        log = (self.folder / f"log-{len(self.children)}.txt").open("wb")
        with log:
            self.children.append(
                subprocess.Popen([sys.executable, "-m", *arguments], cwd=self.folder, stdout=log, stderr=log)
            )

    def stop(self) -> list[int]:
        for child in reversed(self.children):
            child.send_signal(signal.SIGTERM)
            child.wait(90)
        return [child.returncode for child in self.children]

    def cli(self, *arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "ops.cli", *arguments, "-o", "json"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def run_file(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state" / "run" / f"{name}.json").read_text())
        return found

    def lane(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cli("status")["lanes"][0]
        return found

    def cycles(self) -> list[dict[str, Any]]:
        path = self.folder / "state" / "run" / "cycles.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def ask(self, texts: list[str]) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.run_file('serve')['port']}/classify"
        with httpx.Client(timeout=60) as client:
            answers = [client.post(url, json={"model": "feelings", "input": text}) for text in texts]
        assert [answer.status_code for answer in answers] == [200] * len(texts)
        return [answer.json()["data"][0] for answer in answers]


def wait(what: str, until: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if until():
                return
        except (OSError, KeyError, IndexError, httpx.HTTPError):
            pass  # not there yet
        time.sleep(0.25)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


@pytest.fixture
def running(tmp_path: Path, shared_data: Path, kafka_broker: Broker) -> Iterator[Running]:
    init(tmp_path)
    found = Running(tmp_path, shared_data / "isear.jsonl")
    try:
        prompt = tmp_path / "prompts" / "classify.txt"
        found.start(
            "ops.demo.traffic.recorded_teacher",
            "--table",
            str(found.rows),
            "--prompt-file",
            str(prompt),
            "--run-folder",
            ".",
        )
        teacher = tmp_path / "teacher.json"
        wait("the teacher listens", teacher.exists, READY_S)
        teacher_port = json.loads(teacher.read_text())["port"]
        settings = SETTINGS.format(kafka_port=kafka_broker.port, teacher_port=teacher_port)
        (tmp_path / "understudy.toml").write_text(settings)
        found.start("ops.cli", "run", "all")
        wait("the gateway is ready", lambda: found.run_file("serve")["port"] > 0 and ready(found), READY_S)
        yield found
    finally:
        *_, supervisor = found.stop()
        for number in range(len(found.children)):
            print((tmp_path / f"log-{number}.txt").read_text()[-4000:])  # noqa: T201 - shown when the test fails
    assert supervisor == 0, "SIGTERM ends everything cleanly"


def ready(running: Running) -> bool:
    return all(
        httpx.get(f"http://127.0.0.1:{running.run_file(name)['admin_port']}/readyz").status_code == 200
        for name in ("serve", "ingest", "train")
    )


@pytest.mark.timeout(2400)
def test_real_text_through_kafka_to_a_fine_tuned_version_and_back(running: Running, tmp_path: Path) -> None:
    lines = running.rows.read_text().splitlines()
    first = tmp_path / "first.jsonl"
    first.write_text("\n".join(lines[:IMPORTED]) + "\n")
    imported = running.cli("import", str(first))
    assert imported["published"] == IMPORTED
    wait("the first cycle", lambda: len(running.cycles()) == 1, CYCLE_S)
    head = running.cycles()[0]
    assert (head["kind"], head["verdict"]) == ("head", "pass"), head
    wait("the head version serves", lambda: set(running.lane()["served"].values()) == {head["version"]}, READY_S)

    later = [json.loads(line)["text"] for line in lines[IMPORTED : IMPORTED + ASKED]]
    answers = running.ask(later)
    by_student = [answer for answer in answers if answer["served_by"] == "student"]
    assert by_student
    assert {answer["version"] for answer in by_student} == {head["version"]}
    assert any(answer["served_by"] == "teacher" for answer in answers)

    running.cli("cycle", "start", "--fine-tune", "--reason", "in full")
    wait("the fine-tuning cycle", lambda: len(running.cycles()) == 2, CYCLE_S)
    tuned = running.cycles()[1]
    assert (tuned["kind"], tuned["verdict"]) == ("fine_tune", "pass"), tuned
    shown = running.cli("show", tuned["version"])
    assert shown["student"]["fine_tune"] == "fresh"
    assert len(shown["student"]["pool_weights"]) == 2
    assert shown["topics"]
    assert shown["served_parameters"] > 30_000_000
    wait("the fine-tuned version serves", lambda: set(running.lane()["served"].values()) == {tuned["version"]}, READY_S)
    assert running.ask(later[:5])

    back = running.cli("rollback", "--reason", "the test goes back")
    assert back["to"] == head["version"]
    lane = running.lane()
    assert set(lane["served"].values()) == {head["version"]}
    assert lane["pinned"]
    assert {answer["version"] for answer in running.ask(later) if answer["served_by"] == "student"} == {head["version"]}

    wait("everything is ingested", lambda: running.lane()["buffer"]["lag_records"] == 0, READY_S)
    verified = running.cli("verify")
    assert verified["complete"]
    assert verified["missing"] == verified["extra"] == []
    assert verified["expected"] == verified["found"] >= IMPORTED * 0.95
    assert verified["chain_ok"]
    assert verified["signatures_ok"]
