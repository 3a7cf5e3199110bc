"""Work that somebody waits for: dropped as soon as the client has hung up."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

_Found = TypeVar("_Found")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def while_connected(work: Awaitable[_Found], receive: Receive) -> _Found:
    """The result of `work`, which is cancelled when the client hangs up or this is cancelled.

    The body must have been read: what comes after it is the end of the connection.

    Raises:
        ClientDisconnect: nobody waits for the result any more.
    """
    working = asyncio.ensure_future(_done(work))
    gone = asyncio.ensure_future(_hung_up(receive))
    both: set[asyncio.Future[Any]] = {working, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.wait({working})  # or it might still be computed
        raise ClientDisconnect
    finally:
        gone.cancel()
        working.cancel()


async def _done(work: Awaitable[_Found]) -> _Found:
    """A task of its own, so that nothing is left unheard when it is cancelled."""
    return await work


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
