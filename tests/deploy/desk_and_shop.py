"""An installation with a lane of each task, its real processes, a teacher for all of them, and traffic."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
from typer.testing import CliRunner

from ops.cli.app import app
from ops.init import init
from ops.state.run_files import read_run_file
from store.event import RankInput
from tests.deploy.facts import PROCESSES, ROOT
from tests.ops.sites import open_site
from tests.small_site import LEARNS_AT_ONCE, small_site
from tests.tiny import tiny_encoder
from tests.trainer.rank.lists import a_list, scores_of

USE_CASES: Final = ("shop", "support", "desk")
IMPORTED: Final = 400


class Teacher(ThreadingHTTPServer):
    """An endpoint that ranks, classifies and chats."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(_ranked(asked) if self.path.endswith("/rerank") else _said()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _ranked(asked: Any) -> dict[str, Any]:
    scores = scores_of(RankInput(query=asked["query"], documents=asked["documents"]), Random(0), noise=0.0)
    results = [{"index": place, "relevance_score": score} for place, score in enumerate(scores)]
    return {"results": results, "usage": {"total_tokens": 9}}


def _said() -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "refund"}}
    usage = {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "big",
        "choices": [choice],
        "usage": usage,
    }


class Running:
    """`understudy run all` on the installation."""

    def __init__(self, settings: Path, process: subprocess.Popen[bytes]) -> None:
        self.settings = settings
        self._process = process
        self._numbers = count()
        self._rng = Random(7)

    def said(self) -> str:
        """The end of what the processes wrote."""
        return (self.settings.parent / "all.log").read_text("utf-8", "replace")[-4000:]

    def admin_ports(self) -> dict[str, int]:
        """Where each process that runs answers Prometheus."""
        assert self._process.poll() is None, self.said()
        directory = open_site(self.settings).run_directory
        found = {name: read_run_file(directory, name) for name in PROCESSES}
        return {name: one.admin_port for name, one in found.items() if one is not None and one.admin_port}

    def call(self, *arguments: str | Path) -> Any:
        """What a command of ours answers."""
        done = CliRunner().invoke(app, [*map(str, arguments), "-c", str(self.settings), "-o", "json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def learn(self, folder: Path) -> None:
        """Import a log of the shop's, of which a first student is made."""
        rng = Random(3)
        lists = [a_list(rng) for _ in range(IMPORTED)]
        rows = [
            {
                "query": one.query,
                "documents": list(one.documents),
                "teacher": {"model": "reranker-1", "scores": scores_of(one, rng)},
            }
            for one in lists
        ]
        path = folder / "rerank.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
        assert self.call("import", path, "--lane", "acme/shop")["published"] == IMPORTED

    def ask(self) -> None:
        """A question to each lane."""
        found = read_run_file(open_site(self.settings).run_directory, "serve")
        assert found is not None, self.said()
        number = next(self._numbers)
        asked = a_list(self._rng)
        for path, body in {
            "rerank": {"model": "shop", "query": asked.query, "documents": list(asked.documents)},
            "classify": {"model": "support", "input": f"where is parcel {number}?"},
            "v1/chat/completions": {
                "model": "desk",
                "messages": [{"role": "user", "content": f"my card {number} was swallowed"}],
            },
        }.items():
            answer = httpx.post(f"http://127.0.0.1:{found.port}/{path}", json=body, timeout=60.0, trust_env=False)
            assert answer.status_code == httpx.codes.OK, answer.text


def _lanes(teacher: str) -> list[dict[str, object]]:
    common = {"teacher.base_url": teacher, "budget.calls_per_day": 100_000}
    return [
        common
        | {
            "use_case": "shop",
            "task": "rank",
            "audit_ratio": 0.5,
            "promise.target": 0.8,
            "promise.confidence": 0.8,
            "teacher.kind": "rerank",
            "teacher.model": "reranker-1",
            "teacher.search_usd": 0.002,
        },
        common
        | {
            "use_case": "support",
            "labels": ["refund", "delivery"],
            "teacher.prompt_file": "prompts/classify.txt",
            "teacher.input_usd_per_mtok": 1.0,
            "teacher.output_usd_per_mtok": 4.0,
        },
        common | {"use_case": "desk", "task": "chat", "training_permitted": False},
    ]


@contextmanager
def desk_and_shop(folder: Path, redis_url: str) -> Iterator[Running]:
    """The installation at work; its processes have been started, not awaited."""
    init(folder)
    settings = folder / "understudy.toml"
    with Teacher() as teacher:
        thread = threading.Thread(target=teacher.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        encoder = tiny_encoder(folder / "encoder", layers=3)
        values = LEARNS_AT_ONCE | {"redis.url": redis_url, "trainer.fine_tune": False, "trainer.min_new_labels": 300}
        settings.write_text(small_site(encoder, values, *_lanes(teacher.url)), "utf-8")
        command = [sys.executable, "-m", "ops.cli", "run", "all", "-c", str(settings)]
        with (
            (folder / "all.log").open("wb") as log,
            subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process,
        ):
            try:
                yield Running(settings, process)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(120)
        teacher.shutdown()
        thread.join()
