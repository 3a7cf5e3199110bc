"""Answers that are to have a form: what a student was trained for, and what is never sent."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import openai
import pytest

from serve.lifecycle import Gateway
from serve.tasks.chat.form import keeps_form
from store.tasks.chat import ChatTerms, form_of
from store.tasks.tasks import LaneTerms
from tests.serve.chat.fakes import FakeTalker, chat_world, listening, question, teacher_in
from tests.serve.chat.teller import Teller
from tests.serve.fakes import World

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
OBJECT: dict[str, Any] = {"type": "json_object"}
WEATHER: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}


def schema(of: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": of}}


@pytest.mark.parametrize(
    ("text", "wanted", "kept"),
    [
        ("anything", None, True),
        ("anything", {"type": "text"}, True),
        ('{"a": 1}', OBJECT, True),
        ("[1]", OBJECT, False),
        ('{"a": 1', OBJECT, False),
        ('{"a": 1} and more', OBJECT, False),
        ('{"a": 1, "a": 2}', OBJECT, False),
        ('{"a": NaN}', OBJECT, False),
        ('{"city": "Rome"}', WEATHER, True),
        ('{"city": "Rome", "days": 3}', WEATHER, True),
        ('{"city": "Rome", "days": 0}', WEATHER, False),
        ('{"city": "Rome", "other": 1}', WEATHER, False),
        ('{"days": 3}', WEATHER, False),
        ("{}", schema({"type": "nonsense"}), False),
        ("{}", schema({"$ref": "http://127.0.0.1:9/elsewhere"}), False),
        ('{"n": {"n": {}}}', schema({"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}}), True),
        ("{}", {"type": "json_schema"}, False),
        ("{}", {"type": "grammar"}, False),
        ("{}", {"type": "json_schema", "json_schema": 5}, False),
        ('{"a": "b"}', schema({"properties": {"a": {"pattern": "("}}}), False),
        ("{}", schema({"$schema": []}), False),
    ],
)
def test_an_answer_keeps_the_form_or_it_does_not(*, text: str, wanted: dict[str, Any] | None, kept: bool) -> None:
    assert keeps_form(text, wanted) is kept


def test_forms_are_the_same_whatever_the_order_of_their_keys() -> None:
    turned = {"json_schema": {"schema": dict(reversed(SCHEMA.items())), "name": "weather"}, "type": "json_schema"}
    assert form_of({"response_format": turned}) == form_of({"response_format": WEATHER}) is not None
    assert form_of({"response_format": OBJECT}) != form_of({"response_format": WEATHER})
    assert form_of({"stop": "x"}) is None


Step = Callable[[openai.AsyncOpenAI, Gateway], Awaitable[None]]


def run(world: World, step: Step) -> None:
    async def main() -> None:
        async with listening(world) as (client, gateway, _):
            await step(client, gateway)

    asyncio.run(main())


def served(folder: Path, student: FakeTalker, decide: Literal["end", "prompt"] = "end") -> World:
    world = chat_world(folder, terms=LaneTerms(chat=ChatTerms(decide=decide)), audit_ratio=0.0)
    world.serve(student=student)
    return world


async def said(client: openai.AsyncOpenAI, text: str, *, stream: bool = False, **more: Any) -> str:
    found: Any = await client.chat.completions.create(**question(text, stream=stream, **more))
    if not stream:
        return str(found.choices[0].message.content)
    return "".join([one.choices[0].delta.content or "" async for one in found if one.choices])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("decide", ["end", "prompt"])
def test_a_student_answers_in_the_form_and_what_has_another_is_escalated_and_never_sent(
    tmp_path: Path, *, stream: bool, decide: Literal["end", "prompt"]
) -> None:
    student = FakeTalker() if decide == "end" else Teller()
    student.spelled = {"good": '{"city": "Rome"}', "bad": '{"city": 3}', "torn": '{"city": "Ro'}
    world = served(tmp_path, student, decide)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        assert await said(client, "good", stream=stream, response_format=WEATHER) == '{"city": "Rome"}'
        assert teacher_in(world).bodies == []
        for text in ("bad", "torn"):
            assert await said(client, text, stream=stream, response_format=WEATHER) == "the teacher says so"
        teacher_in(world).status = 500
        with pytest.raises(openai.InternalServerError):
            await said(client, "bad", stream=stream, response_format=WEATHER)

    run(world, step)
    assert len(world.sink.events) == 2


def test_what_it_was_not_trained_for_is_unsupported_and_learned_from(tmp_path: Path) -> None:
    student = FakeTalker()
    student.forms = False
    world = served(tmp_path, student)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        teacher_in(world).message = {"role": "assistant", "content": '{"city": "Rome"}'}
        raw = await client.chat.completions.with_raw_response.create(**question("hello", response_format=WEATHER))
        assert raw.headers["x-understudy-reason"] == "unsupported"
        student.seen.clear()
        assert await said(client, "hello", response_format=WEATHER) == '{"city": "Rome"}'
        assert student.seen == [], "it was asked all the same"
        assert await said(client, "hello") == "you said: hello"

    run(world, step)
    assert [(one.escalation.reason, one.eligible, one.student) for one in world.sink.events] == [
        ("unsupported", True, None)
    ] * 2
