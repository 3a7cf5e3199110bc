"""LiteLLM's library calls our logger, and the lane's calls are in the topic of a real log."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from ops.open_log import ensure_topics, open_history
from store.event import ClassifyEscalation, Escalation, decode
from stream.log import topic_of
from tests.ops.proxied import FakeTeacher, serving
from tests.ops.sites import LANE, make_site, open_site
from tests.serve.fakes import eventually

litellm = pytest.importorskip("litellm")
pytestmark = pytest.mark.clients


@pytest.fixture
def logger(tmp_path: Path, redis_url: str, redis_client: redis.Redis) -> Iterator[Any]:
    from ops.producing.litellm import UnderstudyLogger  # noqa: PLC0415 - it needs the package

    settings = make_site(tmp_path / "site", url=f'"{redis_url}"', labels='["refund", "delivery"]')
    (tmp_path / "site/prompts/classify.txt").write_text("Sort: $labels\nText: $text", "utf-8")
    ensure_topics(open_site(settings), redis_client)
    found = UnderstudyLogger(config=settings, lane=str(LANE), models=["alias"])
    litellm.callbacks = [found]
    yield found, settings
    litellm.callbacks = []
    found.producer.close()


def published(settings: Path, client: redis.Redis) -> list[Escalation]:
    site = open_site(settings)
    found: list[Escalation] = []
    with open_history(site, client) as history:
        for slot in history.slots(topic_of(LANE.use_case)):
            begin, end = history.bounds(slot)
            for record in history.read(slot, begin, end):
                event = decode(record.value)
                assert isinstance(event, Escalation)
                found.append(event)
    return found


def test_what_litellm_asks_the_lanes_teacher_is_in_the_topic(logger: Any, redis_client: redis.Redis) -> None:
    found, settings = logger

    async def ask(url: str) -> None:
        for number, stream in enumerate((False, True, False)):
            answer = await litellm.acompletion(
                model="openai/gpt-4o-mini",
                api_base=url,
                api_key="x",
                stream=stream,
                messages=[{"role": "user", "content": f"Sort: refund, delivery\nText: parcel {number}"}],
            )
            if stream:
                assert [one async for one in answer]
        await litellm.acompletion(
            model="openai/other", api_base=url, api_key="x", messages=[{"role": "user", "content": "hi"}]
        )
        await eventually(lambda: sum(found.producer.counts.values()) == 4, 60.0)

    with serving(FakeTeacher(said="delivery").app()) as port:
        asyncio.run(asyncio.wait_for(ask(f"http://127.0.0.1:{port}/v1"), 60))
    assert found.producer.counts == {"published": 3, "unusable": 1}
    events = published(settings, redis_client)
    assert all(isinstance(event, ClassifyEscalation) for event in events)
    assert sorted(event.input.text for event in events if isinstance(event, ClassifyEscalation)) == [
        f"parcel {number}" for number in range(3)
    ]
