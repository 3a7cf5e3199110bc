"""The demo's client and processes: an open loop, everything stopped, nothing left."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from ops.demo.__main__ import parse
from ops.demo.command import run_json
from ops.demo.plant import shuffle_answers
from ops.demo.processes import DemoError, Descendants, explain_end, running
from ops.demo.tasks.play import Request
from ops.demo.tasks.tasks import TASKS
from ops.demo.traffic.client import Client, schedule_s
from store.event import RankInput, TaskInput, TextInput
from store.tasks.classify import ClassifyRules
from store.tasks.rank import RankRules
from tests.ops.children import REPOSITORY, gone, until
from tests.ops.one_run import traffic
from trainer.snapshot import Row

WAITS = "import time, pathlib, os, sys; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"


@given(requests=st.integers(1, 300), rate=st.floats(0.5, 100), seed=st.integers(0, 9))
@settings(deadline=None)
def test_the_pace_is_kept_in_order_with_a_small_jitter(requests: int, rate: float, seed: int) -> None:
    due = schedule_s(requests, rate, seed)
    assert due == sorted(due) == schedule_s(requests, rate, seed)
    assert all(abs(at_s - index / rate) <= 0.5 / rate + 1e-9 for index, at_s in enumerate(due))


@asynccontextmanager
async def gateway(delay_s: float) -> AsyncIterator[str]:
    asked: Counter[str] = Counter()

    async def classify(request: HttpRequest) -> JSONResponse:
        text = (await request.json())["input"]
        await asyncio.sleep(delay_s)
        asked[text] += 1
        if text == "put off" and asked[text] == 1:
            return JSONResponse({"error": {"code": "overloaded"}}, 429, {"Retry-After": "0"})
        if text == "not yet" and asked[text] == 1:
            return JSONResponse({"error": {"code": "budget_unavailable"}}, 503, {"Retry-After": "0"})
        if text == "broken":
            return JSONResponse({"error": {"code": "overloaded"}}, 503)
        label = None if text == "nobody" else text
        datum = {"label": label, "served_by": "student", "version": "v1", "event_id": None, "withheld": False}
        return JSONResponse({"data": [datum | {"error": {"code": "teacher_down"}}]})

    config = uvicorn.Config(
        Starlette(routes=[Route("/v1/classify", classify, methods=["POST"])]), port=0, log_level="critical"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn tells it by a flag alone
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


def client_of(url: str, requests: list[tuple[str, str]]) -> Client:
    asked = tuple(Request(value=TextInput(text=text), recorded=label) for text, label in requests)
    return Client(url, replace(traffic(), requests=asked), TASKS["classify"], lambda value: f"item of {texts(value)}")


def texts(value: TaskInput) -> str:
    assert isinstance(value, TextInput)
    return value.text


def sent(requests: list[tuple[str, str]], due_s: list[float], delay_s: float = 0.0) -> tuple[Client, float]:
    async def send() -> tuple[Client, float]:
        async with gateway(delay_s) as url:
            client = client_of(url, requests)
            started_s = asyncio.get_running_loop().time()
            await client.send_all(due_s)
            return client, asyncio.get_running_loop().time() - started_s

    return asyncio.run(send())


def test_every_request_is_recorded_and_a_failure_keeps_its_words() -> None:
    requests = [("refund", "refund"), ("broken", "refund"), ("nobody", "refund")]
    client, _ = sent(requests, [0.0, 0.0, 0.0])
    found = {one.index: one for one in client.outcomes}
    assert (found[0].agreed, found[0].item_id, found[0].version) == (True, "item of refund", "v1")
    assert found[1].agreed is None
    assert "HTTP 503" in (found[1].error or "")
    assert found[2].agreed is None
    assert "teacher_down" in (found[2].error or "")


@pytest.mark.parametrize("text", ["put off", "not yet"])
def test_a_request_that_the_gateway_puts_off_is_sent_again(text: str) -> None:
    client, _ = sent([(text, "refund")], [0.0])
    assert [(one.agreed, one.error) for one in client.outcomes] == [(False, None)]


def test_a_slow_gateway_does_not_slow_the_client_down() -> None:
    client, seconds = sent([("refund", "refund")] * 20, [0.0] * 20, delay_s=0.5)
    assert len(client.outcomes) == 20
    assert seconds < 0.5 * 20 / 2


def test_nobody_at_home_is_a_failed_request_and_no_crash() -> None:
    client = client_of("http://127.0.0.1:9", [("refund", "refund")])
    asyncio.run(client.send_all([0.0]))
    assert client.outcomes[0].agreed is None
    assert "Connect" in (client.outcomes[0].error or "")


def test_a_process_runs_until_its_context_ends(tmp_path: Path) -> None:
    with running("a server", ("http.server", "0", "--bind", "127.0.0.1"), folder=tmp_path, log=tmp_path / "log") as one:
        assert explain_end("a server", one, tmp_path / "log") is None
        assert os.getsid(one.pid) == one.pid, "Ctrl-C in the terminal must not reach it"
    assert gone(one.pid)


def test_a_process_that_ended_is_explained_by_the_end_of_its_log(tmp_path: Path) -> None:
    with running("a module", ("no_such_module",), folder=tmp_path, log=tmp_path / "log") as one:
        until(lambda: one.poll() is not None)
        told = explain_end("a module", one, tmp_path / "log")
    assert told is not None
    assert "a module ended with code 1" in told
    assert "no_such_module" in told


def test_a_process_dies_with_a_demo_that_is_killed(tmp_path: Path) -> None:
    program = (
        f"import pathlib, time\nfrom ops.demo.processes import running\nhere = pathlib.Path({str(tmp_path)!r})\n"
        "with running('x', ('http.server', '0', '--bind', '127.0.0.1'), folder=here, log=here / 'log') as one:\n"
        "    (here / 'pid').write_text(str(one.pid))\n    time.sleep(600)\n"
    )
    demo = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY)
    try:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    finally:
        demo.kill()
        demo.wait()
    until(lambda: gone(int((tmp_path / "pid").read_text())))


def test_descendants_are_counted_after_their_parent_has_ended(tmp_path: Path) -> None:
    middle = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WAITS!r}, sys.argv[1]], cwd='/');"
        "sys.stdin.read()"
    )
    note, found = tmp_path / "pid", Descendants()
    parent = subprocess.Popen([sys.executable, "-c", middle, str(note)], stdin=subprocess.PIPE)
    until(lambda: note.exists() and note.read_text() != "")
    found.look()
    assert parent.stdin is not None
    parent.stdin.close()
    parent.wait()
    assert found.left(tmp_path / "elsewhere", patience_s=0.2) == 1
    psutil.Process(int(note.read_text())).kill()
    assert found.left(tmp_path / "elsewhere", patience_s=10.0) == 0


def test_a_process_that_works_in_the_demos_folder_is_counted_whoever_started_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    shell = f"cd {tmp_path} && setsid {sys.executable} -c '{WAITS}' {note} >/dev/null 2>&1 &"
    subprocess.run(["sh", "-c", shell], check=True)
    until(lambda: note.exists() and note.read_text() != "")
    assert Descendants().left(tmp_path, patience_s=0.0) == 1
    os.kill(int(note.read_text()), signal.SIGKILL)
    assert Descendants().left(tmp_path, patience_s=10.0) == 0


def test_a_commands_json_is_read_and_timed(tmp_path: Path) -> None:
    file = tmp_path / "given.json"
    file.write_text('{"version": "v1"}')
    ran = asyncio.run(run_json("json.tool", str(file)))
    assert (ran.code, ran.answer) == (0, {"version": "v1"})
    assert 0 < ran.seconds < 60


def test_a_command_without_json_is_an_error() -> None:
    with pytest.raises(DemoError, match="no_such_module"):
        asyncio.run(run_json("no_such_module"))


def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(DemoError, match="took longer"):
        asyncio.run(run_json("http.server", "0", "--bind", "127.0.0.1", timeout_s=0.5))
    assert not [child for child in psutil.Process().children() if "http.server" in " ".join(child.cmdline())]


def row(number: int, split: str, value: TaskInput) -> Row:
    return Row(
        item_id=f"item-{number}",
        input=value,
        answers={f"label {number % 5}": 1},
        words=f"text {number}",
        label=f"label {number % 5}",
        soft={"label 0": 0.5, "label 1": 0.5},
        weight=1.0,
        mass=1.0,
        requests=1.0,
        count=1,
        split=split,  # type: ignore[arg-type]
        cluster=number,
        conflicted=False,
        asked_s=0.0,
        escalated=1,
        first_opinion=None,
    )


SPLITS = ("train", "judge", "train", "calibrate")


def test_shuffling_permutes_the_training_rows_answers_and_touches_nothing_else() -> None:
    rows = tuple(row(number, SPLITS[number % 4], TextInput(text=f"text {number}")) for number in range(200))
    found = shuffle_answers(rows, ClassifyRules().texts, 1)
    train = [place for place, one in enumerate(rows) if one.split == "train"]
    assert sorted(found[place].label for place in train) == sorted(rows[place].label for place in train)
    kept = sum(found[place].label == rows[place].label for place in train)
    assert kept < 0.4 * len(train)
    assert all(list(found[place].answers) == [found[place].label] for place in train)
    assert all(found[place].soft is None for place in train)
    assert all(a == b for a, b in zip(found, rows, strict=True) if a.split != "train")


def test_a_list_gets_the_answer_of_another_list_with_as_many_documents() -> None:
    lengths = [2 + number % 3 for number in range(90)]
    lists = [RankInput(query="q", documents=[str(n)] * length) for n, length in enumerate(lengths)]
    rows = tuple(replace(row(n, "train", value), label=str(lengths[n])) for n, value in enumerate(lists))
    found = shuffle_answers(rows, RankRules().texts, 1)
    assert [one.label for one in found] == [one.label for one in rows]
    assert [one.answers for one in found] != [one.answers for one in rows]


def test_the_arguments_are_those_that_make_passes_on() -> None:
    words = "--traffic f.jsonl --target .75 --file-order --seed 2 --requests 99 --text-column t --label-column a.b"
    plan = parse([*words.split(), "--task", "rank"])
    assert plan.tasks == ("rank",)
    assert (plan.traffic, plan.target, plan.file_order, plan.seed) == (Path("f.jsonl"), 0.75, True, 2)
    assert (plan.requests, plan.text_column, plan.label_column) == (99, "t", "a.b")


@pytest.mark.parametrize("words", [["--target", "90"], ["--rate", "0"], ["--requests", "3"]])
def test_a_senseless_argument_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(words)
    assert refused.value.code == 2
