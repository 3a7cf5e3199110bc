"""Secrets and personal data, planted at every entrance and looked for in all that is written, told and shown.

Planted: the teacher's key, a client's key, and a card, an address of mail and an account in the questions of each task;
the teacher sends what it was told back in its answers and errors, as real endpoints do. Looked for: every file of the
installation and of its Redis, whose log and items are there as they are, the logs, metrics, spans and command lines of
its processes, and what commands and refusals print. What was planted has arrived at the teacher: a bird that never flew
tells nothing.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from ops.cli.app import app
from ops.init import init
from ops.state.run_files import read_run_file
from store.buffer.server import private_redis
from tests.ops.children import REPOSITORY, until
from tests.ops.sites import open_site
from tests.serve.tracing.collector import collecting
from tests.small_site import small_site
from tests.tiny import tiny_encoder
from tests.tiny_decoders import tiny_decoder

TEACHER_KEY: Final = "sk-canary-TEACHER-9f27c1"
CLIENT_KEY: Final = "canary-CLIENT-key-51d0a7"
WRONG_KEY: Final = "canary-WRONG-key-aa31b9"
CARD: Final = "5555 5555 5555 4444"
MAIL: Final = "ada.canary@example.org"
ACCOUNT: Final = "DE89 3704 0044 0532 0130 00"
SECRETS: Final = (TEACHER_KEY, CLIENT_KEY, WRONG_KEY)
PERSONAL: Final = (CARD, MAIL, ACCOUNT)
PLANTED: Final = f"my card {CARD}, mail {MAIL}, account {ACCOUNT}"
DEADLINE_S: Final = 300.0
LANES: Final = {"desk": "classify", "shop": "rank", "talk": "chat"}
PATHS: Final = {"desk": "/classify", "shop": "/rerank", "talk": "/v1/chat/completions"}


class Parrot(ThreadingHTTPServer):
    """A teacher that says back what it was told: in its answers, or in the message of an error."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.status = 200
        self.heard: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Answer(BaseHTTPRequestHandler):
    server: Parrot

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        told = f"{self.headers['Authorization']} asked {asked}"
        self.server.heard.append(told)
        message = {"role": "assistant", "content": f"you said: {json.loads(asked)['messages'][-1]['content']}"}
        said: dict[str, Any] = {"id": "c", "object": "chat.completion", "created": 1, "model": "big"}
        said["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        said["usage"] = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        if self.server.status != 200:
            said = {"error": {"message": f"cannot serve: {told}", "type": "server_error", "code": told}}
        body = json.dumps(said).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Installed:
    """`understudy run all` with a lane of each task, on a Redis of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.teacher = stack.enter_context(Parrot())
        thread = threading.Thread(target=self.teacher.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self.teacher.shutdown)
        url = stack.enter_context(private_redis(folder / "redis"))
        self.collector = stack.enter_context(collecting())
        init(folder)
        self.settings = folder / "understudy.toml"
        encoder, decoder = tiny_encoder(folder / "encoder", layers=1), tiny_decoder(folder / "decoder")
        (folder / "prompts" / "rank.txt").write_text("Order for $query:\n$documents\n")
        more: dict[str, dict[str, object]] = {
            "desk": {"labels": ["refund", "cancel"], "teacher.prompt_file": "prompts/classify.txt"},
            "shop": {"teacher.prompt_file": "prompts/rank.txt"},
            "talk": {"student.model": str(decoder)},
        }
        common = {"api_keys": [CLIENT_KEY], "teacher.base_url": self.teacher.url, "teacher.api_key_env": "CANARY_KEY"}
        lanes = [common | {"use_case": name, "task": task} | more[name] for name, task in LANES.items()]
        self.settings.write_text(
            small_site(
                encoder, {"redis.url": url, "gateway.debug": True, "tracing.endpoint": self.collector.url}, *lanes
            )
        )
        with (folder / "all.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ops.cli", "run", "all", "-c", str(self.settings)],
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
            )
        stack.callback(self._end)
        until(lambda: self.port("serve") is not None, seconds=DEADLINE_S)

    def port(self, process: str, *, admin: bool = False) -> int | None:
        assert self.process.poll() is None, self.log
        found = read_run_file(open_site(self.settings).run_directory, process)
        return None if found is None else found.admin_port if admin else found.port

    @property
    def log(self) -> str:
        return (self.folder / "all.log").read_text("utf-8", "replace")

    def ask(self, use_case: str, body: Mapping[str, Any], *, key: str = CLIENT_KEY, **headers: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port('serve')}{PATHS[use_case]}"
        sent = {"Authorization": f"Bearer {key}", **headers}
        return httpx.post(url, json={"model": use_case, **body}, headers=sent, timeout=60.0)

    def metrics(self) -> dict[str, str]:
        """What each process says of itself."""
        names = ("serve", "ingest", "train")
        until(lambda: all(self.port(name, admin=True) for name in names), seconds=DEADLINE_S)
        pages = {name: f"http://127.0.0.1:{self.port(name, admin=True)}/metrics" for name in names}
        return {name: httpx.get(page, timeout=60.0).text for name, page in pages.items()}

    def command_lines(self) -> str:
        """As `ps` shows them."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return "\n".join(" ".join(one.cmdline()) for one in family)

    def told(self, *arguments: str) -> str:
        """What a command prints, whatever comes of it."""
        done = CliRunner().invoke(app, [*arguments, "-c", str(self.settings)])
        return f"{arguments}: {done.output}"

    def _end(self) -> None:
        self.process.terminate()
        self.process.wait(90)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    monkeypatch.setenv("CANARY_KEY", TEACHER_KEY)
    with ExitStack() as stack:
        yield Installed(tmp_path, stack)


def bodies(number: int) -> dict[str, Any]:
    """A question of each task that nobody asked before, with everything planted in it."""
    text = f"question {number}: {PLANTED}"
    return {
        "desk": {"input": text, "user": MAIL},
        "shop": {"query": text, "documents": ["a kettle", f"a letter of {MAIL}"], "user": MAIL},
        "talk": {
            "messages": [{"role": "system", "content": f"for {MAIL}"}, {"role": "user", "content": text}],
            "user": MAIL,
        },
    }


WRONG: Final[dict[str, Any]] = {
    "desk": [{"input": {"card": CARD}}, {"input": [CARD, 3]}, {MAIL: PLANTED}, {"input": PLANTED * 2_000}],
    "shop": [{"query": 3, "documents": [PLANTED]}, {"query": PLANTED, "documents": {MAIL: CARD}}],
    "talk": [{"messages": [{"role": MAIL, "content": CARD}]}, {"messages": PLANTED}],
}


def found_in(text: str) -> list[str]:
    """What was planted and can be read in a text, with or without its blanks."""
    return [one for one in (*SECRETS, *PERSONAL) if one in text or one.replace(" ", "") in text]


def test_nothing_that_was_planted_is_written_told_or_shown(installed: Installed) -> None:
    shown: dict[str, str] = {}
    event = ""
    for use_case, body in bodies(1).items():
        answer = installed.ask(use_case, body, **{"Idempotency-Key": f"order of {MAIL}"})
        assert use_case != "talk" or answer.status_code == 200, answer.text
        event = answer.headers.get("X-Understudy-Event", "")  # of the last, a talk
    installed.teacher.status = 500
    for use_case, body in bodies(2).items():
        refused = installed.ask(use_case, body)
        shown[f"{use_case} fails"] = refused.text + str(refused.headers)
    installed.teacher.status = 400
    for use_case, body in bodies(3).items():
        refused = installed.ask(use_case, body)
        shown[f"{use_case} refuses"] = refused.text + str(refused.headers)
    installed.teacher.status = 200
    for use_case, wrong in WRONG.items():
        for number, body in enumerate(wrong):
            refused = installed.ask(use_case, body)
            assert refused.status_code in {400, 413, 422}, refused.text
            shown[f"{use_case} wrong {number}"] = refused.text + str(refused.headers)
        turned_away = installed.ask(use_case, bodies(4)[use_case], key=WRONG_KEY)
        assert turned_away.status_code == 401
        shown[f"{use_case} turned away"] = turned_away.text

    heard = "\n".join(installed.teacher.heard)
    assert set(found_in(heard)) == {TEACHER_KEY, *PERSONAL}, "it all arrived where it has to"
    counted = 'understudy_ingest_events_total{tenant="acme",use_case="talk"}'
    until(lambda: counted in installed.metrics()["ingest"], seconds=DEADLINE_S)

    shown |= installed.metrics()
    shown["ps"] = installed.command_lines()
    until(lambda: {2, 3, 4, 5} <= {one.kind for one in installed.collector.spans()}, seconds=DEADLINE_S)
    shown["spans"] = b"".join(installed.collector.bodies).decode("latin-1")
    for command in (
        *(["status"], ["verify"], ["lag"], ["dlq", "list"], ["keys", "list"], ["producers"]),
        ["trace", event],
    ):
        shown[" ".join(command)] = installed.told(*command) + installed.told(*command, "-o", "json")
    assert event in shown["spans"], "it was told"
    assert "counted; asked once" in shown[f"trace {event}"], "so was its way"
    assert {name: found for name, text in shown.items() if (found := found_in(text))} == {}

    files = [path for path in installed.folder.rglob("*") if path.is_file() and path != installed.settings]
    assert len(files) > 20
    assert any(b"question 1" in path.read_bytes() for path in files), "the question itself is kept"
    read = {str(path.relative_to(installed.folder)): path.read_bytes().decode("utf-8", "replace") for path in files}
    assert {name: found for name, text in read.items() if (found := found_in(text))} == {}
