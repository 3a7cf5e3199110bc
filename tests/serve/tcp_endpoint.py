"""An endpoint on a real socket that reads each request to its end and then does what it is told."""

import asyncio
import gzip
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

Act = Callable[[asyncio.StreamWriter], Awaitable[None]]
GOOD = json.dumps(
    {
        "choices": [{"finish_reason": "stop", "message": {"content": "no"}}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 2},
    }
).encode()


@dataclass
class TcpEndpoint:
    """Counts the requests that it has read to their end."""

    act: Act
    read: int = 0
    heads: list[bytes] = field(default_factory=list)
    port: int = 0
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                await reader.readexactly(int(lengths[0]))
                self.read += 1
                self.heads.append(head)
                await self.act(writer)
                if writer.is_closing():
                    break
        with suppress(ConnectionError, asyncio.CancelledError):
            writer.close()
            await writer.wait_closed()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["TcpEndpoint"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0.01)  # in which the other side, too, closes its sockets


def answers(body: bytes = GOOD, status: str = "200 OK", *headers: str) -> Act:
    """Say one whole response."""

    async def act(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return act


def says(raw: bytes) -> Act:
    """Say these bytes and close."""

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    return act


async def resets(writer: asyncio.StreamWriter) -> None:
    """Break the connection so that the other side's kernel says so."""
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def hangs(writer: asyncio.StreamWriter) -> None:
    """Say nothing."""
    del writer
    await asyncio.sleep(60)


async def drips(writer: asyncio.StreamWriter) -> None:
    """Say a body byte by byte, without end."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def talks_on(writer: asyncio.StreamWriter) -> None:
    """Send header after header."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"y" * 1_000 + b"\r\n")
        await writer.drain()


async def floods(writer: asyncio.StreamWriter) -> None:
    """Send a body without end."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await writer.drain()


@cache
def bomb(mebibytes: int) -> bytes:
    """Gzip of so many MiB of blanks."""
    return gzip.compress(b" " * (mebibytes << 20), compresslevel=9)
