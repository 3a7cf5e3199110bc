"""A gateway of fakes behind a real port, with its own protocol and listener, and raw clients of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn

from serve.app import build_app
from serve.drain import DrainingServer
from serve.front.connections import ConnectionLimits, Connections, protocol_of
from serve.front.listener import Listener, listen
from serve.lifecycle import Gateway
from tests.serve.fakes import World, eventually

Raw = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Port:
    """The port and what is behind it."""

    number: int
    connections: Connections
    gateway: Gateway
    world: World
    server: uvicorn.Server

    async def open(self, sent: bytes = b"") -> Raw:
        """Connect, and send something."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
        writer.write(sent)
        await writer.drain()
        return reader, writer

    async def status(self, sent: bytes) -> int:
        """The status of the answer to what is sent over a connection of its own."""
        reader, writer = await self.open(sent)
        status = await status_of(reader)
        writer.close()
        return status

    def closed(self, why: str) -> float:
        """How many connections the gateway has ended so."""
        labels = {"why": why}
        return self.world.prometheus.get_sample_value("understudy_connections_closed_total", labels) or 0.0


@asynccontextmanager
async def serving(world: World, limits: ConnectionLimits) -> AsyncIterator[Port]:
    """Serve on a free port, as `ops.processes.run` does."""
    services = world.services()
    app = build_app(services, world.settings)
    connections = Connections(limits, services.metrics.connections, services.metrics.connections_closed)
    listening = listen("127.0.0.1", 0)
    listener = Listener(listening, connections.make_room, connections.count_refused)
    config = uvicorn.Config(
        app,
        http=protocol_of(connections),
        loop="asyncio",
        ws="none",
        proxy_headers=False,
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=1,
    )
    server = DrainingServer(config)
    running = asyncio.create_task(server._serve([listener]))
    gateway: Gateway = app.state.gateway
    await eventually(lambda: server.started and gateway.ready())
    try:
        yield Port(listener.getsockname()[1], connections, gateway, world, server)
    finally:
        server.should_exit = True
        await running


def request(body: bytes, *headers: str, target: str = "POST /classify HTTP/1.1", length: bool = True) -> bytes:
    """The bytes of a request."""
    lines = [target, "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of the next answer, whose body is read, too; 0 where the connection was closed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
    return int(head.split()[1])
