"""Bodies within their bounds: the largest that is still coming in gives way, and what came too slowly is given up."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request

from serve.front.bodies import Bodies, BodyLimits
from serve.front.errors import ApiError


class Body:
    """A body that comes as it is told to."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()

    def send(self, chunk: bytes, *, more: bool = True) -> None:
        self.chunks.put_nowait((chunk, more))

    async def receive(self) -> dict[str, object]:
        chunk, more = await self.chunks.get()
        return {"type": "http.request", "body": chunk, "more_body": more}

    def read(self, bodies: Bodies) -> "asyncio.Task[bytes]":
        request = Request({"type": "http", "headers": [], "method": "POST"}, self.receive)
        return asyncio.create_task(bodies.read(request))


async def steps() -> AsyncIterator[None]:
    """Let everything that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)
        yield


async def settle() -> None:
    async for _ in steps():
        pass


def status(task: "asyncio.Task[bytes]") -> int:
    error = task.exception()
    assert isinstance(error, ApiError)
    return error.status


def test_over_the_bound_the_largest_gives_way_and_the_small_one_is_read() -> None:
    async def main() -> None:
        bodies = Bodies(BodyLimits(total_bytes=1000, patience_s=600.0))
        large, small = Body(), Body()
        one, other = large.read(bodies), small.read(bodies)
        large.send(b"x" * 900)
        await settle()
        small.send(b"y" * 200)
        await settle()
        assert status(one) == 503
        error = one.exception()
        assert isinstance(error, ApiError)
        assert error.response().headers["retry-after"] == "1"
        small.send(b"", more=False)
        assert await other == b"y" * 200
        assert bodies.held_bytes == 0

    asyncio.run(main())


def test_a_body_that_goes_over_the_bound_with_its_last_chunk_is_refused_itself() -> None:
    async def main() -> None:
        bodies = Bodies(BodyLimits(total_bytes=1000, patience_s=600.0))
        body = Body()
        task = body.read(bodies)
        body.send(b"x" * 1001, more=False)
        with pytest.raises(ApiError) as caught:
            await task
        assert (caught.value.status, bodies.held_bytes) == (503, 0)

    asyncio.run(main())


@pytest.mark.parametrize("sent", [b"", b"x" * 10])
def test_a_body_that_stops_coming_is_408(sent: bytes) -> None:
    async def main() -> None:
        bodies = Bodies(BodyLimits(patience_s=0.05, bytes_per_s=1000))
        body = Body()
        task = body.read(bodies)
        body.send(sent)
        with pytest.raises(ApiError) as caught:
            await task
        assert (caught.value.status, bodies.held_bytes) == (408, 0)

    asyncio.run(main())


def test_a_body_over_its_own_bound_is_413_and_one_whose_client_hangs_up_is_forgotten() -> None:
    async def main() -> None:
        bodies = Bodies(BodyLimits(each_bytes=100))
        body, other = Body(), Body()
        task, gone = body.read(bodies), other.read(bodies)
        body.send(b"x" * 101)
        other.send(b"y" * 50)
        await settle()
        assert (status(task), bodies.held_bytes) == (413, 50)
        gone.cancel()
        await settle()
        assert bodies.held_bytes == 0

    asyncio.run(main())
