"""`/v1/chat/completions` over HTTP: what a student may answer, and what is refused with the field named."""

import re
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from serve.completions.stream import Events, assembled, chunks, event
from serve.lifecycle import Gateway
from store.errors import TooLaboriousError
from store.event import ChatAnswer, ChatInput, encode
from tests.serve.chat.fakes import FakeTalker, chat_world, question, teacher_in
from tests.serve.client import run
from tests.serve.fakes import World

PATH = "/v1/chat/completions"
IMAGE = [
    {"type": "text", "text": "what is it"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
]
TOOL_TURN = [
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
    {"role": "tool", "tool_call_id": "c", "content": "3"},
]


def served(folder: Path) -> World:
    world = chat_world(folder)
    world.serve(student=FakeTalker())
    return world


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"functions": [{"name": "f"}]},
        {"n": 2},
        {"logprobs": True},
        {"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "mp3"}},
        {"messages": [{"role": "user", "content": IMAGE}]},
        {"messages": [{"role": "user", "content": "add"}, *TOOL_TURN]},
        {"web_search_options": {}},
    ],
)
def test_what_no_student_can_do_is_the_teachers(tmp_path: Path, changes: dict[str, Any]) -> None:
    world = served(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post(PATH, json=question() | changes)
        assert response.headers["x-understudy-reason"] == "unsupported"
        sent = question() | changes | {"model": "big", "temperature": 0}
        assert teacher_in(world).bodies == [sent]

    run(world, step)
    assert [one.eligible for one in world.sink.events] == [False]


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [], "n": 1, "logprobs": False, "modalities": ["text"], "tool_choice": None},
        {"response_format": {"type": "text"}},
        {"temperature": 2, "seed": 3, "top_p": 0.1, "store": True, "metadata": {"a": "b"}},
        {"max_tokens": 3},
        {"max_completion_tokens": 3, "max_tokens": 100},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
        {"messages": [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hello", "name": "a"}]},
    ],
)
def test_what_asks_for_a_text_is_the_students(tmp_path: Path, changes: dict[str, Any]) -> None:
    world = served(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        found = (await client.post(PATH, json=question() | changes)).json()
        assert found["understudy"]["served_by"] == "student"
        assert found["choices"][0]["message"]["content"] == "you said: hello"

    run(world, step)
    assert teacher_in(world).bodies == []


@pytest.mark.parametrize("text", ["cut off", "long is this"])
def test_an_answer_without_an_end_or_a_prompt_too_long_is_the_teachers(tmp_path: Path, text: str) -> None:
    world = served(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        assert (await client.post(PATH, json=question(text))).headers["x-understudy-served-by"] == "teacher"

    run(world, step)


def test_an_answer_longer_than_its_client_wants_is_the_teachers(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post(PATH, json=question("one two three", max_tokens=4))
        assert response.headers["x-understudy-served-by"] == "teacher"

    run(world, step)
    assert teacher_in(world).bodies[0]["max_tokens"] == 4


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "a", "name": 3}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "a" * 200_001}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"response_format": True}, "response_format"),
        ({"stop": 5}, "stop"),
        ({"n": "two"}, "n"),
        ({"model": None}, "model"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    world = served(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post(PATH, json=question() | changes)
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["type"]) == (400, field, "invalid_request_error")
        assert error["message"].startswith(f"{field}: ")

    run(world, step)


def test_a_whole_number_may_be_written_with_a_point(tmp_path: Path) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        found = [await client.post(PATH, json=question() | {"max_tokens": number}) for number in (30.0, 30.5)]
        assert [one.status_code for one in found] == [200, 400]

    run(served(tmp_path), step)


def test_a_picture_stands_in_the_event_as_its_digest(tmp_path: Path) -> None:
    world = served(tmp_path)
    large = [IMAGE[0], {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 300_000}}]

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        for content in (IMAGE, large, IMAGE, IMAGE[1]):
            response = await client.post(PATH, json=question() | {"messages": [{"role": "user", "content": content}]})
            assert response.status_code == 200, response.text
            assert teacher_in(world).bodies[-1]["messages"][0]["content"] == content

    run(world, step)
    kept = [cast("ChatInput", one.input).messages[0].content for one in world.sink.events]
    assert "what is it" in kept[0]
    assert '"image_url"' in kept[0]
    assert kept[0] == kept[2]
    assert len(set(kept)) == 3
    assert not any("base64" in one for one in kept)


def test_what_a_teacher_says_of_persons_reaches_its_client_and_no_event(tmp_path: Path) -> None:
    world = chat_world(tmp_path)
    call = {"id": "c", "type": "function", "function": {"name": "mail", "arguments": '{"to": "ada@example.org"}'}}
    says = {"role": "assistant", "content": "write to ada@example.org", "tool_calls": [call]}
    teacher_in(world).message = says

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post(PATH, json=question("my mail is ada@example.org"))
        assert response.json()["choices"][0]["message"] == says

    run(world, step)
    (kept,) = world.sink.events
    written = encode(kept).decode()
    assert "example.org" not in written
    (token,) = set(re.findall(r"<EMAIL:\w+>", written))
    teacher = cast("ChatAnswer", kept.teacher)
    assert teacher.text == f"write to {token}"
    assert token in str(teacher.tool_calls)


def test_an_answer_that_would_take_too_long_to_redact_is_given_and_not_kept(tmp_path: Path) -> None:
    def redact(text: str) -> tuple[str, dict[str, str]]:
        if text.startswith("the teacher"):
            raise TooLaboriousError
        return text, {}

    world = chat_world(tmp_path)
    world.noting = redact

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post(PATH, json=question())
        assert response.json()["choices"][0]["message"]["content"] == "the teacher says so"

    run(world, step)
    (kept,) = world.sink.events
    assert (kept.eligible, cast("ChatAnswer", kept.teacher).text) == (False, "")


@pytest.mark.parametrize("ending", ["length", "content_filter"])
def test_an_answer_that_is_not_whole_reaches_its_client_and_no_student(tmp_path: Path, ending: str) -> None:
    world = chat_world(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        teacher_in(world).finish_reason = ending
        found = (await client.post(PATH, json=question())).json()
        assert found["choices"][0]["finish_reason"] == ending

    run(world, step)
    assert [one.eligible for one in world.sink.events] == [False]


def test_one_key_pays_once_also_for_a_stream(tmp_path: Path) -> None:
    world = chat_world(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        sent = question(stream=True)
        first = await client.post(PATH, json=sent, headers={"Idempotency-Key": "a"})
        again = await client.post(PATH, json=sent, headers={"Idempotency-Key": "a"})
        assert first.text.endswith("data: [DONE]\n\n")
        assert again.text.endswith("data: [DONE]\n\n")
        said = [assembled([one for one in _chunks(body.content) if one]) for body in (first, again)]
        assert [one["choices"][0]["message"]["content"] for one in said] == ["the teacher says so"] * 2

    run(world, step)
    assert len(teacher_in(world).bodies) == 1


def _chunks(body: bytes) -> list[Any]:
    import json  # noqa: PLC0415

    return [json.loads(data) for data in Events().feed(body) if data != b"[DONE]"]


def test_events_are_read_however_they_are_cut() -> None:
    body = b': hi\r\ndata: {"a":1}\r\n\r\nevent: x\ndata: 1\ndata:2\n\nid: 3\n\ndata: last'
    whole = Events()
    wanted = [*whole.feed(body), *whole.end()]
    assert wanted == [b'{"a":1}', b"1\n2", b"last"]
    for cut in range(1, len(body)):
        events = Events()
        assert [*events.feed(body[:cut]), *events.feed(body[cut:]), *events.end()] == wanted, cut


def test_a_whole_answer_comes_back_from_its_own_chunks() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]
    message = {"role": "assistant", "content": "a text that is longer than one piece of it is", "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    stream = b"".join(map(event, chunks({"id": "i"}, choice, {"prompt_tokens": 1})))
    found = assembled(_chunks(stream))
    assert found["choices"] == [choice]
    assert found["usage"] == {"prompt_tokens": 1}
    with pytest.raises(ValueError, match="not a stream"):
        assembled([{"choices": []}])
