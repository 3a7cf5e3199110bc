"""Work that somebody waits for: dropped as soon as the client has hung up."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

_Found = TypeVar("_Found")


async def while_connected(
    work: asyncio.Future[_Found], receive: Callable[[], Awaitable[MutableMapping[str, Any]]]
) -> _Found:
    """The result of `work`, which is cancelled when the client hangs up or this is cancelled.

    The body must have been read: what comes after it is the end of the connection.

    Raises:
        ClientDisconnect: nobody waits for the result any more.
    """
    gone = asyncio.ensure_future(_hung_up(receive))
    both: set[asyncio.Future[Any]] = {work, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientDisconnect
    finally:
        gone.cancel()
        work.cancel()


async def _hung_up(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
