"""`understudy proxy-log`: nothing changes for client and teacher, and every call is a row that the readers read."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ops.backtest.options import Options as BacktestOptions
from ops.backtest.tasks.logs import read
from ops.readers.files import BadRow
from ops.readers.rows import Told
from ops.readers.tasks import open_reader
from ops.recording.command import alone, recorder
from ops.recording.file import RecordedLog
from ops.recording.options import Options
from store.answers.rules import NO_RULES
from store.errors import AlreadyRunningError, SettingsError
from store.event import Task
from tests.ops.children import REPOSITORY, until
from tests.ops.proxied import FakeTeacher, recording, serving

CARD = "4111 1111 1111 1111"
PROMPT = "Sort it: $labels\nText: $text\nLabel:"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


OPEN: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def client_of(url: str) -> openai.OpenAI:
    OPEN.append(openai.OpenAI(base_url=url, api_key="the-clients-own", max_retries=0))
    return OPEN[-1]


def chat(url: str, text: str, **more: Any) -> Any:
    messages: Any = [{"role": "system", "content": "be kind"}, {"role": "user", "content": text}]
    return client_of(url).chat.completions.create(model="any", messages=messages, **more)


def test_a_call_goes_on_as_it_came_and_its_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    teacher, out = FakeTeacher(), tmp_path / "calls.jsonl"
    with recording(teacher, out=out) as url:
        found = chat(url, f"my card is {CARD}", temperature=0.5, user="u-1")
        assert (found.id, found.model, found.choices[0].message.content) == ("c-1", "big-2", "hello there")
        assert [one.id for one in client_of(url).models.list()] == ["big"]
    (path, headers, body), (listed, _, _) = teacher.seen
    assert (path, listed) == ("/v1/chat/completions", "/v1/models")
    assert headers["authorization"] == "Bearer the-clients-own"
    assert (body["model"], body["temperature"], body["messages"][1]["content"]) == ("any", 0.5, f"my card is {CARD}")
    (row,) = rows(out)
    assert row["request"]["messages"][1]["content"].startswith("my card is <CARD:")
    assert row["request"]["user"].startswith("subject:")
    assert row["response"]["choices"][0]["message"]["content"] == "hello there"
    assert CARD not in out.read_text("utf-8")
    assert out.stat().st_mode & 0o077 == 0


def test_the_settings_key_and_model_stand_in_the_place_of_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-ours")
    teacher = FakeTeacher()
    with recording(teacher, out=tmp_path / "calls.jsonl", api_key_env="TEACHER_KEY", model="big") as url:
        chat(url, "hi")
    ((_, headers, body),) = teacher.seen
    assert (headers["authorization"], body["model"]) == ("Bearer sk-ours", "big")
    assert "x-api-key" not in headers


def test_a_stream_comes_as_it_comes_and_is_one_row(tmp_path: Path) -> None:
    teacher, out = FakeTeacher(held=threading.Event()), tmp_path / "calls.jsonl"
    assert teacher.held is not None
    with recording(teacher, out=out) as url:
        stream = iter(chat(url, "hi", stream=True))
        assert next(stream).choices[0].delta.content == "hello"
        assert rows(out) == []
        teacher.held.set()
        assert "".join(one.choices[0].delta.content or "" for one in stream) == " there"
        (row,) = rows(out)  # it was there before the stream ended
    assert row["response"]["choices"][0]["message"]["content"] == "hello there"


def test_a_client_that_leaves_midway_loses_nothing_that_is_paid(tmp_path: Path) -> None:
    teacher, out = FakeTeacher(held=threading.Event()), tmp_path / "calls.jsonl"
    assert teacher.held is not None
    with recording(teacher, out=out) as url:
        stream = chat(url, "hi", stream=True)
        next(iter(stream))
        stream.close()
        teacher.held.set()
        until(lambda: len(rows(out)) == 1)


def test_what_is_no_whole_answer_is_passed_on_and_not_recorded(tmp_path: Path) -> None:
    teacher, out = FakeTeacher(status=429), tmp_path / "calls.jsonl"
    with recording(teacher, out=out) as url:
        with pytest.raises(openai.RateLimitError) as error:
            chat(url, "hi")
        assert error.value.response.headers["retry-after"] == "7"
        teacher.status, teacher.breaks = 200, True
        with pytest.raises((httpx.RemoteProtocolError, openai.APIError)):  # as the teacher broke off
            list(chat(url, "hi", stream=True))
    assert rows(out) == []


def test_a_teacher_that_is_not_there_is_an_error_in_openais_words(tmp_path: Path) -> None:
    with serving(FakeTeacher().app()) as port:
        pass
    options = Options(teacher_url=f"http://127.0.0.1:{port}/v1", out=tmp_path / "calls.jsonl")
    with alone(options.out) as secret, serving(recorder(options, secret)) as own:
        with pytest.raises(openai.InternalServerError) as error:
            chat(f"http://127.0.0.1:{own}/v1", "hi")
        assert error.value.code == "teacher_down"


def test_a_web_page_is_refused(tmp_path: Path) -> None:
    teacher = FakeTeacher()
    with recording(teacher, out=tmp_path / "calls.jsonl") as url:
        found = httpx.post(f"{url}/chat/completions", json={}, headers={"Origin": "https://evil.example"})
    assert found.status_code == 403
    assert teacher.seen == []


def ask(task: Task, url: str, number: int) -> None:
    """A question of a task, as its clients ask a teacher today."""
    if task == "rank":
        body = {"model": "any", "query": f"shoes {number}", "documents": ["boots", f"sandals {number}"], "top_n": 2}
        assert httpx.post(f"{url}/rerank", json=body).status_code == 200
    else:
        chat(url, f"Sort it: refund, delivery\nText: where is parcel {number}?\nLabel:", stream=number % 2 == 0)


@pytest.mark.parametrize("task", ["classify", "rank", "chat"])
def test_import_and_backtest_read_it(tmp_path: Path, task: Task) -> None:
    out, prompt = tmp_path / "calls.jsonl", tmp_path / "prompt.txt"
    prompt.write_text(PROMPT, "utf-8")
    teacher = FakeTeacher(said="delivery")
    with recording(teacher, out=out, task=task, prompt=prompt if task == "classify" else None) as url:
        for number in range(6):
            teacher.said = ("delivery", "refund")[number // 3]
            ask(task, url, number)
        until(lambda: len(rows(out)) == 6)
    told = Told()
    labels = ("refund", "delivery") if task == "classify" else ()
    found = list(open_reader(task, out, {}, labels=labels).rows(told))
    assert not any(isinstance(row, BadRow) for row in found)
    assert all(row.time_s is not None for row in found if not isinstance(row, BadRow))
    assert told.faults.total() == 0
    log = read(task, BacktestOptions(log=out, task=task, days=1.0), None, NO_RULES)
    assert (len(log.labels), log.skipped) == (6, 0)
    assert all(label is not None for label in log.labels)
    if task == "classify":
        assert set(log.texts) == {f"where is parcel {number}?" for number in range(6)}


def test_equal_values_have_equal_tokens_from_one_start_to_the_next(tmp_path: Path) -> None:
    out = tmp_path / "calls.jsonl"
    for _ in range(2):
        with recording(FakeTeacher(), out=out) as url:
            chat(url, f"my card is {CARD}")
    first, second = rows(out)
    assert first["request"] == second["request"]
    assert first["id"] != second["id"]


def test_raw_keeps_what_was_said(tmp_path: Path) -> None:
    out = tmp_path / "calls.jsonl"
    with recording(FakeTeacher(), out=out, raw=True) as url:
        chat(url, f"my card is {CARD}", user="u-1")
    (row,) = rows(out)
    assert (row["request"]["messages"][1]["content"], row["request"]["user"]) == (f"my card is {CARD}", "u-1")


def test_a_picture_is_recorded_as_its_digest(tmp_path: Path) -> None:
    teacher, out = FakeTeacher(), tmp_path / "calls.jsonl"
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with recording(teacher, out=out) as url:
        messages: Any = [{"role": "user", "content": [{"type": "text", "text": f"is it {CARD}"}, picture]}]
        client_of(url).chat.completions.create(model="any", messages=messages)
    assert teacher.seen[0][2]["messages"] == messages
    (row,) = rows(out)
    text, digest = row["request"]["messages"][0]["content"]
    assert text["text"].startswith("is it <CARD:")
    assert digest.keys() == {"type", "sha256"}


def test_two_proxies_do_not_record_into_one_file(tmp_path: Path) -> None:
    with alone(tmp_path / "calls.jsonl"), pytest.raises(AlreadyRunningError), alone(tmp_path / "calls.jsonl"):
        pass


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"teacher_url": "api.example.com"}, "--teacher-url"),
        ({"teacher_url": "https://api.example.com/v1/chat/completions"}, "--teacher-url"),
        ({"api_key_env": "NOBODY_SET_THIS"}, "--api-key-env"),
        ({"api_key_env": "TEACHER_KEY", "host": "0.0.0.0"}, "--host"),  # noqa: S104 - it is refused
        ({"model": " "}, "--model"),
        ({"prompt": Path("nowhere.txt"), "task": "classify"}, "--prompt"),
        ({"prompt": Path("nowhere.txt"), "task": "rank"}, "--prompt"),
    ],
)
def test_an_option_that_cannot_be_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], flag: str
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-ours")
    given: dict[str, Any] = {"teacher_url": "https://api.example.com/v1", "out": tmp_path / "calls.jsonl", **changes}
    with alone(tmp_path / "calls.jsonl") as secret, pytest.raises(SettingsError, match=flag):
        recorder(Options(**given), secret)


def test_the_log_is_bounded_and_its_oldest_file_goes_first(tmp_path: Path) -> None:
    log = RecordedLog(tmp_path / "calls.jsonl", most_bytes=100, keep=2)
    for number in range(12):
        log.append(b'{"n": "%028d"}' % number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["calls.jsonl", "calls.jsonl.1", "calls.jsonl.2"]
    kept = [int(row["n"]) for name in reversed(names) for row in rows(tmp_path / name)]
    assert kept == list(range(12))[-len(kept) :]
    assert all((tmp_path / name).stat().st_size <= 100 for name in names)


def test_a_kill_loses_only_what_was_in_flight(tmp_path: Path) -> None:
    teacher, out = FakeTeacher(), tmp_path / "calls.jsonl"
    with serving(teacher.app()) as port:
        line = [sys.executable, "-m", "ops.cli.app", "proxy-log", "--teacher-url", f"http://127.0.0.1:{port}/v1"]
        with subprocess.Popen(
            [*line, "--out", str(out), "--port", "0"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        ) as proxy:
            assert proxy.stdout is not None
            url = proxy.stdout.readline().split()[0]
            answered = [chat(url, f"question {number}").id for number in range(3)]
            teacher.held = threading.Event()
            next(iter(chat(url, "in flight", stream=True)))
            os.kill(proxy.pid, signal.SIGKILL)
            teacher.held.set()
    assert [row["request"]["messages"][1]["content"] for row in rows(out)] == [
        f"question {number}" for number in range(len(answered))
    ]
