"""Ranking end to end: a real gateway process on a real Redis, a teacher of each kind over HTTP, real versions."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from ops.init import init
from ops.site import Site
from ops.state.run_files import read_run_file
from store.event import Lane
from store.policy import Policy
from store.registry.signing import SigningKey
from store.student.rank.bases import load_base
from tests.contracts.loaded import ranker_on, version_of_ranker
from tests.ops.children import REPOSITORY
from tests.ops.sites import open_site
from tests.serve.rank.fakes import worth
from tests.tiny import tiny_cross_encoder, tiny_encoder

DEADLINE_S: Final = 300.0  # for anything, on a machine ten times slower
DOCUMENTS: Final = ["red money", "a blue parcel", "money money", "late"]
SURE: Final = Policy(
    temperature=1.0,
    threshold=0.0,
    novelty_threshold=None,
    target=0.9,
    confidence_level=0.95,
    coverage_ratio=1.0,
    rows=100,
    lower=0.91,
)
SETTINGS: Final = """
state_dir = "state"
[redis]
url = "{redis}"
[gateway]
port = 0
[admin]
serve_port = 0
ingest_port = 0
train_port = 0
[trainer]
device = "cpu"
precision = "fp32"
threads = 1
{lanes}
"""
LANE: Final = """
[[lanes]]
tenant = "acme"
use_case = "{use_case}"
task = "rank"
training_permitted = true
audit_ratio = 0.0
[lanes.budget]
calls_per_day = 1000
[lanes.student]
device = "cpu"
threads = 1
[lanes.teacher]
base_url = "{url}"
model = "big"
timeout_s = 20
{teacher}
"""


class Teacher(ThreadingHTTPServer):
    """Scores at /rerank, and ranks at /chat/completions."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.down = False
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Answer(BaseHTTPRequestHandler):
    server: Teacher

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(self.path)
        body = json.dumps(scored(asked) if self.path.endswith("/rerank") else ordered(asked)).encode()
        self.send_response(500 if self.server.down else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def scored(asked: Any) -> dict[str, Any]:
    results = [
        {"index": place, "relevance_score": worth(asked["query"], document)}
        for place, document in enumerate(asked["documents"])
    ]
    return {"results": results, "usage": {"total_tokens": 9}}


def ordered(asked: Any) -> dict[str, Any]:
    prompt = asked["messages"][0]["content"]
    query, *shown = [line.partition(": ")[2] or line for line in prompt.split("\n") if line]
    documents = [re.sub(r"^\[\d+\] ", "", one) for one in shown]
    ranked = sorted(range(len(documents)), key=lambda place: -worth(query, documents[place]))
    message = {"role": "assistant", "content": json.dumps([place + 1 for place in ranked])}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": usage}


def until(what: str, condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


@dataclass
class Shop:
    """The installation, with its gateway running."""

    site: Site
    teacher: Teacher
    port: int
    folder: Path

    def rerank(
        self, model: str = "shop", query: str = "money", headers: dict[str, str] | None = None, **rest: Any
    ) -> httpx.Response:
        body = {"model": model, "query": query, "documents": DOCUMENTS} | rest
        return httpx.post(f"http://127.0.0.1:{self.port}/v2/rerank", json=body, headers=headers, timeout=DEADLINE_S)

    def publish(self, lane: Lane, seed: float) -> str:
        """A version signed by the trainer; of the search on a cross-encoder."""
        folder = self.folder / f"draft-{lane.use_case}-{seed}"
        make = tiny_cross_encoder if lane.use_case == "search" else tiny_encoder
        base = make(self.folder / f"base-{lane.use_case}-{seed}", seed=1)
        ranker = ranker_on(load_base(base, device="cpu", precision="fp32", max_tokens=32))
        made = version_of_ranker(replace(ranker, policy=SURE, head=replace(ranker.head, slope=seed)), base)
        for name, data in made.contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        manifest = msgspec.structs.replace(made.manifest, lane=lane)
        return self.site.registry.versions(lane).publish(folder, manifest, self.key)

    def move(self, kind: Any, lane: Lane, version: str) -> None:
        self.site.registry.moves(lane).append(
            kind, version=version, who=self.key.name, why="a test", key=self.key, now_s=1_700_000_000.0
        )

    @property
    def key(self) -> SigningKey:
        return SigningKey.load(self.site.settings.keys.trainer)

    def serves(self, model: str, version: str) -> None:
        until(f"{version} serves", lambda: self.rerank(model).json().get("version") == version)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    teacher = Teacher()
    threading.Thread(target=teacher.serve_forever, daemon=True).start()
    init(folder)
    (folder / "rank.txt").write_text("Query: $query\n$documents\n")
    lanes = LANE.format(use_case="shop", url=teacher.url, teacher='kind = "rerank"\nparameters = {}')
    lanes += LANE.format(use_case="search", url=teacher.url, teacher='prompt_file = "rank.txt"\nparser = "json"')
    settings = folder / "understudy.toml"
    settings.write_text(SETTINGS.format(redis=redis_server, lanes=lanes))
    site = open_site(settings)
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "run", "serve", "-c", str(settings)],
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
        )
    try:

        def announced() -> bool:
            assert process.poll() is None, (folder / "serve.log").read_text()
            found = read_run_file(site.run_directory, "serve")
            return found is not None and found.port is not None and found.pid == process.pid

        until("the gateway runs", announced)
        found = read_run_file(site.run_directory, "serve")
        assert found is not None
        assert found.port is not None
        yield Shop(site, teacher, found.port, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        teacher.shutdown()
        teacher.server_close()


@pytest.mark.parametrize(("model", "path"), [("shop", "/v1/rerank"), ("search", "/v1/chat/completions")])
def test_a_lane_that_ranks_goes_from_its_teacher_to_its_student_and_back_again(
    shop: Shop, model: str, path: str
) -> None:
    lane = Lane("acme", model)
    cold = shop.rerank(model, return_documents=True)
    assert cold.status_code == 200
    assert (cold.json()["served_by"], cold.json()["reason"]) == ("teacher", "cold")
    assert [one["document"]["text"] for one in cold.json()["results"]][:2] == ["money money", "red money"]
    assert shop.teacher.asked[-1] == path

    first, second = shop.publish(lane, 0.9), shop.publish(lane, 0.8)
    shop.move("promote", lane, first)
    shop.serves(model, first)
    answered = shop.rerank(model)
    assert (answered.json()["served_by"], answered.json()["reason"]) == ("student", None)
    assert len(answered.json()["results"]) == len(DOCUMENTS)

    forced = shop.rerank(model, headers={"X-Understudy-Force": "teacher"}).json()
    assert (forced["served_by"], forced["reason"]) == ("teacher", "forced")
    long = shop.rerank(model, documents=["late " * 60, "money"]).json()
    assert (long["served_by"], long["reason"]) == ("teacher", "too_long")
    key = {"Idempotency-Key": f"once-{model}", "X-Understudy-Force": "teacher"}
    once, again = shop.rerank(model, headers=key), shop.rerank(model, headers=key)
    assert again.headers["idempotency-replayed"] == "true"
    assert once.json() == again.json()

    shop.teacher.down = True
    try:
        down = shop.rerank(model, documents=["late " * 60, "money"])
        assert (down.status_code, down.json()["error"]["code"]) == (503, "teacher_down")
        assert shop.rerank(model).json()["served_by"] == "student"
    finally:
        shop.teacher.down = False

    stop, statuses, versions = threading.Event(), list[int](), set[str]()

    def client() -> None:
        while not stop.is_set():
            response = shop.rerank(model)
            statuses.append(response.status_code)
            versions.add(response.json()["version"])

    clients = [threading.Thread(target=client) for _ in range(3)]
    for one in clients:
        one.start()
    shop.move("promote", lane, second)
    shop.serves(model, second)
    shop.move("rollback", lane, first)
    shop.serves(model, first)
    stop.set()
    for one in clients:
        one.join(DEADLINE_S)
    assert set(statuses) == {200}
    assert versions == {first, second}
