"""A log of conversations, imported: through ingest and a cycle into the student's answers, whole and streamed."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

from ops.cli.app import app
from ops.init import init
from ops.state.run_files import read_run_file
from store.event import ChatInput
from tests.ops.children import REPOSITORY
from tests.ops.sites import open_site
from tests.serve.chat.teacher import TalkingTeacher, teaching
from tests.serve.rank.test_whole import until
from tests.small_site import LEARNS_AT_ONCE, small_site
from tests.tiny import tiny_encoder
from tests.trainer.chat.talks import a_talk, schooled_decoder

IMPORTED = 280
MORE = 40


@dataclass
class Running:
    """`understudy run all` on an installation with one lane of chat."""

    settings: Path
    teacher: TalkingTeacher

    def call(self, *arguments: str | Path) -> Any:
        done = CliRunner().invoke(app, [*map(str, arguments), "-c", str(self.settings), "-o", "json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def table(self, *arguments: str | Path) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments), "-c", str(self.settings)])
        assert done.exit_code == 0, done.output
        return done.output

    @property
    def port(self) -> int | None:
        found = read_run_file(open_site(self.settings).run_directory, "serve")
        return None if found is None else found.port

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="any", max_retries=0, timeout=120.0)


@pytest.fixture
def running(tmp_path: Path, redis_url: str) -> Iterator[Running]:
    init(tmp_path)
    path = tmp_path / "understudy.toml"
    encoder, model = tiny_encoder(tmp_path / "encoder", layers=1), schooled_decoder(tmp_path / "decoder")
    with teaching(lambda messages: f'{{"t":"{messages[-1]["content"][0]}"}}') as teacher:
        lane = {
            "use_case": "desk",
            "task": "chat",
            "audit_ratio": 0.0,
            "promise.target": 0.8,
            "promise.confidence": 0.8,
            "chat.max_prompt_tokens": 200,
            "chat.max_answer_tokens": 16,
            "student.model": str(model),
            "teacher.base_url": teacher.url,
        }
        path.write_text(small_site(encoder, LEARNS_AT_ONCE | {"redis.url": redis_url}, lane))
        with (
            (tmp_path / "all.log").open("wb") as log,
            subprocess.Popen(
                [sys.executable, "-m", "ops.cli", "run", "all", "-c", path], cwd=REPOSITORY, stdout=log, stderr=log
            ) as process,
        ):
            made = Running(path, teacher)
            try:

                def runs() -> bool:
                    assert process.poll() is None, (tmp_path / "all.log").read_text()
                    return made.port is not None

                until("the gateway runs", runs)
                yield made
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def messages_of(value: ChatInput) -> Any:
    return [{"role": one.role, "content": one.content} for one in value.messages]


def answered(client: openai.OpenAI, value: ChatInput) -> tuple[str, str]:
    """The answer to a conversation and who gave it, the same whole and streamed."""
    messages = messages_of(value)
    raw = client.chat.completions.with_raw_response.create(model="desk", messages=messages)
    said = raw.parse().choices[0].message.content
    create = client.chat.completions.with_streaming_response.create
    with create(model="desk", messages=messages, stream=True) as response:
        pieces = [chunk.choices[0].delta.content or "" for chunk in response.parse() if chunk.choices]
        streamed_by = response.headers["x-understudy-served-by"]
    assert "".join(pieces) == said
    (served_by,) = {raw.headers["x-understudy-served-by"], streamed_by}
    return said or "", served_by


@pytest.mark.timeout(900)
def test_a_log_of_conversations_becomes_a_student_that_answers_whole_and_streamed(
    running: Running, tmp_path: Path
) -> None:
    rng, cycles = Random(3), open_site(running.settings).run_directory / "cycles.jsonl"
    talks = [a_talk(rng) for _ in range(IMPORTED + MORE)]

    def imported(name: str, some: Sequence[tuple[ChatInput, str]], number: int) -> dict[str, Any]:
        """What became of the cycle that an import asks for."""
        log = tmp_path / name
        rows = [{"messages": messages_of(asked), "answer": said} for asked, said in some]
        log.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        found = running.call("import", log)
        assert (found["published"], found["cycle_asked"]) == (len(some), True)
        until("a cycle", lambda: cycles.exists() and len(cycles.read_text("utf-8").splitlines()) > number)
        cycle: dict[str, Any] = json.loads(cycles.read_text("utf-8").splitlines()[number])
        return cycle

    def serves(version: str) -> None:
        until(f"{version} serves", lambda: set(running.call("status")["lanes"][0]["served"].values()) == {version})

    with running.client() as client:
        asked, said = a_talk(rng)
        assert answered(client, asked) == (said, "teacher")
        first = imported("talks.jsonl", talks[:IMPORTED], 0)
        assert (first["kind"], first["verdict"]) == ("fine_tune", "pass"), first  # though a head was asked for
        serves(first["version"])

        new = [a_talk(rng) for _ in range(8)]
        given = [answered(client, asked) for asked, _ in new]
        assert [text for text, _ in given] == [said for _, said in new]
        assert [by for _, by in given].count("student") >= 5

        heard = len(running.teacher.asked)
        tool: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
        raw = client.chat.completions.with_raw_response.create(model="desk", messages=messages_of(asked), tools=[tool])
        assert raw.headers["x-understudy-served-by"] == "teacher"
        (sent,) = running.teacher.asked[heard:]
        assert (sent["model"], sent["tools"]) == ("big", [tool])

        second = imported("more.jsonl", talks[IMPORTED:], 1)
        assert second["kind"] == "head", second
        if second["verdict"] != "pass":
            running.call("promote", second["version"])
        serves(second["version"])
        assert answered(client, new[0][0])[0] == new[0][1]
        running.call("rollback")
        serves(first["version"])

    (lane,) = running.call("status")["lanes"]
    assert lane["promise"]["agreement"] == "the same JSON, or the same words"
    assert set(lane["answers"]["labels"]) == {"all"}  # a conversation's answer is no label
    (prompt,) = lane["answers"]["prompts"].values()
    assert (prompt["items"], prompt["counts"]) == (lane["answers"]["items"], True)
    assert "present" in running.table("prompt", "list")
    assert "teacher.text" in running.table("producers")
    assert "adapter of rank 16" in running.table("show", first["version"])
    assert first["version"] in running.table("history")
    assert running.call("verify")["complete"]
