"""A lane of labels at `/v1/chat/completions`: the official client unchanged, whole answers, streams, errors."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import httpx2
import openai
import pytest
from pydantic import BaseModel

from serve.lifecycle import Gateway
from tests.serve.chat.fakes import FakeTalkingTeacher, listening
from tests.serve.client import only_event
from tests.serve.fakes import FakeStudent, World

Step = Callable[[openai.AsyncOpenAI, Gateway], Awaitable[None]]
OBJECT = {"type": "json_object"}
IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
ENUM = {"type": "string", "enum": ["yes", "no", "maybe"]}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.serve(student=FakeStudent())
    return world


def run(world: World, step: Step) -> None:
    async def main() -> None:
        async with listening(world) as (client, gateway, _):
            await step(client, gateway)

    asyncio.run(main())


def user(text: Any) -> list[Any]:
    return [{"role": "user", "content": text}]


def schema(properties: dict[str, Any], required: list[str], **more: Any) -> dict[str, Any]:
    held = {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": held}}


def refused(world: World, **body: Any) -> openai.APIStatusError:
    """What the client raises for a request."""
    errors: list[openai.APIStatusError] = []

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        with pytest.raises(openai.APIStatusError) as error:
            await client.chat.completions.create(**({"model": "intent", "messages": user("sure")} | body))
        errors.append(error.value)

    run(world, step)
    assert world.endpoint.bodies == []
    assert world.sink.events == []
    return errors[0]


def contents(world: World, *bodies: dict[str, Any]) -> list[str]:
    """The content of the answer to each request."""
    found: list[str] = []

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        for body in bodies:
            answer = await client.chat.completions.create(**({"model": "intent", "messages": user("sure")} | body))
            assert answer.choices[0].finish_reason == "stop"
            found.append(answer.choices[0].message.content or "")

    run(world, step)
    return found


def test_the_students_label_is_the_content_of_an_answer_that_costs_no_tokens(world: World) -> None:
    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        raw = await client.chat.completions.with_raw_response.create(model="intent", messages=user("sure thing"))
        found = raw.parse()
        assert (found.object, found.model, found.choices[0].message.role) == ("chat.completion", "intent", "assistant")
        assert found.choices[0].message.content == "yes"
        assert found.usage is not None
        assert found.usage.total_tokens == 0
        assert raw.headers["x-understudy-served-by"] == "student"
        told: Any = found.model_dump()["understudy"]
        assert (told["served_by"], told["version"], told["read_from"]) == ("student", "a", "message")

    run(world, step)
    assert world.endpoint.bodies == []


def test_the_teacher_is_asked_with_the_lanes_prompt_about_the_text_alone(world: World) -> None:
    rendered = [
        {"role": "system", "content": "One of: yes, no, maybe"},
        {"role": "user", "content": [{"type": "text", "text": "Text:   unsure, really?"}]},
    ]

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        found = await client.chat.completions.create(model="intent", messages=rendered, user="u-1")  # type: ignore[arg-type]
        assert found.choices[0].message.content == "no"
        assert found.usage is not None
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (20, 2)
        assert found.model_dump()["understudy"]["read_from"] == "prompt"

    run(world, step)
    (sent,) = world.endpoint.bodies
    assert sent["messages"] == user("One of:\nyes\nno\nmaybe\nText: unsure, really?")
    event = only_event(world)
    assert (event.input.text, event.teacher.label, event.escalation.reason) == (
        "unsure, really?",
        "no",
        "low_confidence",
    )
    assert event.subject is not None


def test_the_text_is_the_same_question_as_at_classify(world: World) -> None:
    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        prompt = "One of:\nyes\nno\nmaybe\nText: unsure about it"
        await client.chat.completions.create(model="intent", messages=user(prompt))
        await client.post("/classify", cast_to=object, body={"model": "intent", "input": "unsure about it"})

    run(world, step)
    assert len(world.sink.items) == 2
    assert len(set(world.sink.items)) == 1


@pytest.mark.parametrize("text", ["sure", "unsure"])
def test_a_stream_is_the_answer_and_ends_with_its_usage(world: World, text: str) -> None:
    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        stream = await client.chat.completions.create(
            model="intent", messages=user(text), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        said = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
        assert said == ("yes" if text == "sure" else "no")
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == (0 if text == "sure" else 22)

    run(world, step)


Answer = Enum("Answer", {"YES": "Yes", "NO": "no", "MAYBE": "maybe"})  # as a client spells the labels


class ByEnum(BaseModel):
    """What a client wants filled."""

    note: str | None
    answer: Answer


class ByLiteral(BaseModel):
    """The same without a class of values."""

    label: Literal["yes", "no", "maybe", "never"] | None


@pytest.mark.parametrize(
    ("kind", "said"), [(ByEnum, ByEnum(note=None, answer=Answer.YES)), (ByLiteral, ByLiteral(label="yes"))]
)
def test_parse_fills_the_model_of_a_client(world: World, kind: type[BaseModel], said: BaseModel) -> None:
    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        found = await client.chat.completions.parse(model="intent", messages=user("sure"), response_format=kind)
        assert found.choices[0].message.parsed == said

    run(world, step)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"type": "text"}, "yes"),
        (OBJECT, '{"label":"yes"}'),
        (schema({"kind": {"type": "string"}}, ["kind"]), '{"kind":"yes"}'),
        (schema({"kind": ENUM, "why": {"type": "string"}}, ["kind"]), '{"kind":"yes"}'),
        (schema({"why": {"type": ["string", "null"]}, "kind": ENUM}, ["why", "kind"]), '{"why":null,"kind":"yes"}'),
        (schema({"kind": {"enum": ["YES", "No", "maybe"]}}, ["kind"]), '{"kind":"YES"}'),
        (schema({"kind": {"$ref": "#/$defs/Kind"}}, ["kind"], **{"$defs": {"Kind": ENUM}}), '{"kind":"yes"}'),
    ],
)
def test_the_label_is_an_object_where_the_client_wants_one(world: World, wanted: Any, said: str) -> None:
    asked = {"response_format": wanted}
    other = said.replace("YES", "No").replace("yes", "no")
    assert contents(world, asked, asked | {"messages": user("unsure")}) == [said, other]


@pytest.mark.parametrize(
    ("wanted", "field", "told"),
    [
        ({"type": "xml"}, "response_format.type", "json_schema"),
        ("json", "response_format.type", "json_schema"),
        ({"type": "json_schema"}, "response_format.json_schema.schema", "a JSON Schema"),
        (schema({"n": {"type": "integer"}}, ["n"]), "response_format.json_schema.schema", "no property"),
        (schema({"a": ENUM, "b": ENUM}, ["a"]), "response_format.json_schema.schema", "a, b"),
        (schema({"a": ENUM, "n": {"type": "number"}}, ["a", "n"]), "response_format.json_schema.schema", "'n'"),
        (
            schema({"a": {"enum": ["yes"], "type": "string"}}, ["a"]),
            "response_format.json_schema.schema.properties.a.enum",
            "'no', 'maybe'",
        ),
        (
            schema({"a": {"type": "string", "pattern": "^y"}}, ["a"]),
            "response_format.json_schema.schema.properties.a",
            "pattern",
        ),
        (
            schema({"a": {"$ref": "#/$defs/b"}}, ["a"], **{"$defs": {"b": {"$ref": "#/$defs/b"}}}),
            "response_format.json_schema.schema",
            "no property",
        ),
    ],
)
def test_a_form_that_no_label_fits_is_refused_by_name(world: World, wanted: Any, field: str, told: str) -> None:
    error = refused(world, response_format=wanted)
    assert isinstance(error, openai.BadRequestError)
    assert (error.param, error.code, error.type) == (field, "unsupported_value", "invalid_request_error")
    assert told in error.message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"n": 2}, "n"),
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "mp3"}}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"stop": "e"}, "stop"),
        ({"stop": ["\n", "yb"]}, "stop"),
        ({"messages": user(IMAGE)}, "messages[0].content"),
        ({"messages": [{"role": "system", "content": "be brief"}]}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [*user("a"), {"role": "tool", "tool_call_id": "c", "content": "3"}]}, "messages[1]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}, *user("a")]}, "messages[0]"),
    ],
)
def test_what_a_label_cannot_be_is_a_bad_request_that_says_what_to_do(
    world: World, body: dict[str, Any], field: str
) -> None:
    error = refused(world, **body)
    assert isinstance(error, openai.BadRequestError)
    assert (error.param, error.type) == (field, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "field"),
    [({"messages": user("  ")}, "messages[0].content"), ({"messages": user("a" * 20_001)}, "messages[0].content")],
)
def test_a_text_is_checked_as_it_is_at_classify(world: World, body: dict[str, Any], field: str) -> None:
    error = refused(world, **body)
    assert (error.status_code, error.body["field"]) == (400, field)  # type: ignore[index]


@pytest.mark.parametrize(
    "body",
    [
        {"temperature": 1.5, "max_tokens": 1, "max_completion_tokens": 1, "seed": 3, "top_p": 0.1},
        {"presence_penalty": 1, "frequency_penalty": 1, "store": True, "metadata": {"a": "b"}, "user": "u"},
        {"n": 1, "logprobs": False, "modalities": ["text"], "stop": ["\n", "</s>"], "logit_bias": {}},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": [], "extra_body": {"nobody": "knows"}},
        {
            "messages": [
                {"role": "system", "content": "sort"},
                *user("no"),
                {"role": "assistant", "content": "no"},
                *user("sure"),
            ]
        },
    ],
)
def test_what_does_not_change_the_label_is_taken(world: World, body: dict[str, Any]) -> None:
    assert contents(world, body) == ["yes"]


def test_one_idempotency_key_pays_once_and_tells_the_same(world: World) -> None:
    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        keyed = {"Idempotency-Key": "k-1"}
        first, second = [
            await client.chat.completions.create(model="intent", messages=user("unsure"), extra_headers=keyed)
            for _ in range(2)
        ]
        assert (first.id, first.choices) == (second.id, second.choices)
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(
                model="intent", messages=user("unsure"), response_format={"type": "json_object"}, extra_headers=keyed
            )

    run(world, step)
    assert len(world.endpoint.bodies) == 1


def test_a_teacher_that_is_down_is_an_error_in_openais_words_streamed_or_not(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.endpoint.status = 500

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as error:
                await client.chat.completions.create(model="intent", messages=user("a"), stream=stream)
            assert error.value.code == "teacher_down"

    run(world, step)


class AlwaysStreams(FakeTalkingTeacher):
    """Streams, whether it was asked to or not."""

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        return await super().__call__(httpx2.Request("POST", request.url, json=body | {"stream": True}))


def test_what_a_teacher_streams_unasked_never_reaches_the_client(tmp_path: Path) -> None:
    world = World(tmp_path, endpoint=AlwaysStreams())

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(model="intent", messages=user("a"), stream=True)

    run(world, step)


def test_models_lists_the_lanes_and_tells_one(world: World) -> None:
    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        assert [one.id async for one in client.models.list()] == ["intent"]
        assert (await client.models.retrieve("intent")).owned_by == "understudy"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")

    run(world, step)
