"""LangChain's `ChatOpenAI` before a lane of labels and a lane of chat."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.serve.chat.fakes import FakeTalker, chat_world, listening
from tests.serve.fakes import FakeStudent, World

langchain_openai = pytest.importorskip("langchain_openai")
pytestmark = pytest.mark.clients

PROMPT = [("system", "One of: yes, no, maybe"), ("human", "Text: unsure of it")]


class Sorted(BaseModel):
    """What a chain wants."""

    answer: Literal["yes", "no", "maybe"]


@pytest.fixture
def labels(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.serve(student=FakeStudent())
    return world


async def step(world: World, work: Callable[[Any], Any]) -> Any:
    async with listening(world) as (_, _, url):
        return await work(langchain_openai.ChatOpenAI(base_url=url, api_key="any", model="intent", max_retries=0))


async def both(model: Any) -> tuple[Any, str]:
    whole = await model.ainvoke(PROMPT)
    return whole, "".join([piece.content async for piece in model.astream(PROMPT)])


def test_a_lane_of_labels_is_a_chat_model(labels: World) -> None:
    whole, streamed = asyncio.run(step(labels, both))
    assert (whole.content, streamed) == ("no", "no")
    assert whole.usage_metadata["input_tokens"] == 20
    assert whole.response_metadata["finish_reason"] == "stop"
    assert [event.input.text for event in labels.sink.events] == ["unsure of it"] * 2  # type: ignore[union-attr]


def test_structured_output_is_filled_with_the_label(labels: World) -> None:
    async def work(model: Any) -> Any:
        return await model.with_structured_output(Sorted, method="json_schema").ainvoke("sure")

    assert asyncio.run(step(labels, work)) == Sorted(answer="yes")


def test_tools_are_refused_with_what_to_do(labels: World) -> None:
    async def work(model: Any) -> Any:
        return await model.bind_tools([Sorted]).ainvoke("sure")

    with pytest.raises(openai.BadRequestError, match="json_schema"):
        asyncio.run(step(labels, work))


def test_a_chain_over_many_texts_batches(labels: World) -> None:
    async def work(model: Any) -> Any:
        return await model.abatch(["sure", "unsure", "sure too"])

    assert [one.content for one in asyncio.run(step(labels, work))] == ["yes", "no", "yes"]


def test_a_lane_of_chat_is_a_chat_model(tmp_path: Path) -> None:
    world = chat_world(tmp_path)
    world.serve(student=FakeTalker())

    async def work(model: Any) -> Any:
        whole = await model.ainvoke("hello")
        return whole.content, "".join([piece.content async for piece in model.astream("hello")])

    assert asyncio.run(step(world, work)) == ("you said: hello", "you said: hello")
