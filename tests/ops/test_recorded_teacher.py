"""The recorded teacher: OpenAI's shape over HTTP, one answer to a text, an error where none was recorded."""

import asyncio
import json
import signal
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.demo.processes import running
from ops.demo.traffic.recorded_lists import read_lists
from ops.demo.traffic.recorded_teacher import RUN_NAME, Frame, build_app, latency_s, read_table
from ops.state.run_files import read_run_file
from store.errors import SettingsError
from store.event import canonical_text
from tests.ops.children import until

PROMPT = "Labels: $labels. Be brief.\n\nMessage: $text\nLabel:"
FRAME = Frame.of(PROMPT, ("a", "b"))
TABLE = {"where is it": "track", "stop it": "cancel"}


def ask(content: str, **body: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=build_app(TABLE, FRAME))
        async with httpx.AsyncClient(transport=transport, base_url="http://teacher") as client:
            messages = [{"role": "user", "content": content}]
            return await client.post("/v1/chat/completions", json={"model": "recorded", "messages": messages} | body)

    return asyncio.run(send())


def filled(text: str) -> str:
    return PROMPT.replace("$labels", "a, b").replace("$text", text)


@pytest.mark.parametrize("text", ["where is it", "  where   is it ", "stop it"])
def test_a_recorded_text_is_answered_in_the_shape_of_a_chat_completion(text: str) -> None:
    answer = ask(filled(text))
    assert answer.status_code == 200
    body = answer.json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": TABLE[canonical_text(text)]}
    assert body["object"] == "chat.completion"
    assert body["model"] == "recorded"
    usage = body["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert usage["prompt_tokens"] >= len(filled(text)) // 4


def test_a_text_that_was_not_recorded_is_an_error_and_no_guess() -> None:
    answer = ask(filled("what else"))
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "not_recorded"


@pytest.mark.parametrize("body", [{"messages": []}, {"messages": "no"}, {"model": 3}])
def test_a_malformed_request_is_refused(body: dict[str, Any]) -> None:
    assert ask(filled("stop it"), **body).status_code == 400


@given(text=st.text(min_size=1))
def test_the_text_is_found_in_the_prompt_whatever_it_holds(text: str) -> None:
    assert FRAME.text_of(filled(text)) == text


def test_a_prompt_without_the_text_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"\$text"):
        Frame.of("Answer with $labels", ("a",))


def test_latency_is_small_and_a_function_of_the_text() -> None:
    rng = Random(1)
    found = [latency_s(f"text {rng.random()}") for _ in range(2000)]
    assert all(0 < value <= 1.0 for value in found)
    assert 0.05 < sorted(found)[1000] < 0.07
    assert latency_s("one") == latency_s("one") != latency_s("two")


def test_a_text_that_comes_twice_keeps_its_first_answer(tmp_path: Path) -> None:
    file = tmp_path / "table.jsonl"
    rows = [{"text": "a  b", "teacher": {"label": "x"}}, {"text": "a b", "teacher": {"label": "y"}}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_table(file) == {"a b": "x"}


def test_the_process_listens_on_loopback_and_says_where(tmp_path: Path) -> None:
    table, prompt = tmp_path / "table.jsonl", tmp_path / "prompt.txt"
    table.write_text('{"text": "where is it", "label": "track"}\n')
    prompt.write_text(PROMPT)
    command = ("ops.demo.traffic.recorded_teacher", "--table", str(table), "--prompt-file", str(prompt))
    root = Path(__file__).parents[2]
    with running("teacher", (*command, "--run-folder", str(tmp_path)), folder=root, log=tmp_path / "log") as process:
        until(lambda: read_run_file(tmp_path, RUN_NAME) is not None or process.poll() is not None)
        where = read_run_file(tmp_path, RUN_NAME)
        assert where is not None, (tmp_path / "log").read_text()
        content = PROMPT.replace("$labels", "track").replace("$text", "where is it")
        body = {"model": "recorded", "messages": [{"role": "user", "content": content}]}
        answer = httpx.post(f"http://127.0.0.1:{where.port}/v1/chat/completions", json=body, trust_env=False)
        assert answer.json()["choices"][0]["message"]["content"] == "track"
    assert process.returncode in {0, -signal.SIGTERM}  # uvicorn ends by the signal that stopped it


def rerank(lists: Path, body: dict[str, Any]) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=build_app({}, FRAME, read_lists(lists)))
        async with httpx.AsyncClient(transport=transport, base_url="http://teacher") as client:
            return await client.post("/v1/rerank", json={"model": "recorded"} | body)

    return asyncio.run(send())


def test_a_recorded_list_is_scored_in_whatever_order_it_comes_and_another_list_is_an_error(tmp_path: Path) -> None:
    lists = tmp_path / "lists.jsonl"
    row = {"query": "red kite", "documents": ["a boat", "a  kite"], "teacher": {"model": "big", "scores": [0.1, 0.9]}}
    lists.write_text(json.dumps(row) + "\n")
    found = rerank(lists, {"query": " red kite", "documents": ["a kite", "a boat"]}).json()
    assert found["results"] == [{"index": 0, "relevance_score": 0.9}, {"index": 1, "relevance_score": 0.1}]
    assert found["usage"]["total_tokens"] > 0
    unknown = rerank(lists, {"query": "red kite", "documents": ["a kite"]})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (422, "not_recorded")
    assert rerank(lists, {"query": "red kite"}).status_code == 400


def test_a_file_of_lists_that_cannot_be_read_names_its_line(tmp_path: Path) -> None:
    lists = tmp_path / "lists.jsonl"
    lists.write_text('{"query": "a", "documents": ["b", "c"], "teacher": {"scores": [1.0]}}\n')
    with pytest.raises(SettingsError, match="line 1"):
        read_lists(lists)
