"""A client of a gateway of fakes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from serve.lifecycle import Gateway
from store.event import ClassifyEscalation, decode, encode
from tests.serve.fakes import World

Step = Callable[[httpx.AsyncClient, Gateway], Awaitable[Any]]


async def ask(client: httpx.AsyncClient, text: Any, **headers: str) -> httpx.Response:
    """Classify a text or several; header names have underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/v1/classify", json={"model": "intent", "input": text}, headers=named)


def run(world: World, step: Step, host: str = "127.0.0.1") -> None:
    """Start the gateway, take one step as a client at `host`, and stop the gateway."""

    async def main() -> None:
        async with world.running(host) as (client, gateway):
            await step(client, gateway)

    asyncio.run(main())


def only_event(world: World) -> ClassifyEscalation:
    """The one event that was published; it survives its encoding."""
    (event,) = world.sink.events
    assert isinstance(event, ClassifyEscalation)
    assert decode(encode(event)) == event
    return event
