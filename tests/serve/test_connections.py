"""Connections over real sockets: idle and slow ones keep nobody out; what can be read in two ways is refused."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve.front.connections import ConnectionLimits
from tests.serve.fakes import World, eventually
from tests.serve.ports import Port, request, serving, status_of

PATIENT = ConnectionLimits(silent_s=600.0, head_s=600.0, unread_s=600.0, flush_s=600.0)
BODY = b'{"model": "intent", "input": "sure of it"}'
ASK = request(BODY)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.serve()
    return made


def run(world: World, limits: ConnectionLimits, step: Callable[[Port], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving(world, limits) as port:
            await step(port)

    asyncio.run(main())


def test_idle_connections_over_the_limit_give_way_to_the_next_one(world: World) -> None:
    async def step(port: Port) -> None:
        idle = [await port.open(sent) for sent in [b"", b"POST /classify HT"] * 20]
        assert await port.status(ASK) == 200
        await eventually(lambda: len(port.connections) <= 8)
        assert port.closed("evicted") >= 32
        for _, writer in idle:
            writer.close()

    run(world, replace(PATIENT, connections=8), step)


def test_connections_that_send_a_body_slowly_give_way_too(world: World) -> None:
    async def step(port: Port) -> None:
        slow = [await port.open(ASK[:-1]) for _ in range(8)]
        await eventually(lambda: port.gateway.ready() and len(port.connections) == 8)
        assert await port.status(ASK) == 200
        for _, writer in slow:
            writer.close()

    run(world, replace(PATIENT, connections=8), step)


def test_one_that_was_answered_stays_while_idle_ones_come_and_go(world: World) -> None:
    async def step(port: Port) -> None:
        reader, writer = await port.open(ASK)
        assert await status_of(reader) == 200
        idle = [await port.open() for _ in range(40)]
        writer.write(ASK)
        assert await status_of(reader) == 200
        refused_reader, refused_writer = await port.open(request(BODY, target="POST /nowhere HTTP/1.1"))
        assert await status_of(refused_reader) == 404
        idle += [await port.open() for _ in range(40)]
        assert await refused_reader.read() == b""
        for _, one in [*idle, (reader, writer), (refused_reader, refused_writer)]:
            one.close()

    run(world, replace(PATIENT, connections=8), step)


def test_where_all_are_being_answered_a_new_one_is_refused(world: World) -> None:
    async def step(port: Port) -> None:
        world.endpoint.hold = asyncio.Event()
        busy = [await port.open(request(BODY.replace(b"sure", b"unsure"))) for _ in range(4)]
        await eventually(lambda: port.gateway.admission.in_flight == 4)
        assert await port.status(ASK) == 0
        assert port.closed("refused") == 1
        world.endpoint.hold.set()
        assert [await status_of(reader) for reader, _ in busy] == [200] * 4
        for _, writer in busy:
            writer.close()

    run(world, replace(PATIENT, connections=4), step)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "silent"),
        (b"POST /classify HTTP/1.1\r\nHost: a\r\n", "slow_head"),
        (ASK + b"POST /cl", "slow_head"),
        (request(b"", "Content-Length: 100", target="POST /nowhere HTTP/1.1", length=False), "unread"),
    ],
)
def test_a_connection_that_keeps_its_place_without_using_it_is_closed(world: World, sent: bytes, why: str) -> None:
    async def step(port: Port) -> None:
        _, writer = await port.open(sent)
        await eventually(lambda: port.closed(why) == 1)
        writer.close()

    short: dict[str, Any] = {{"silent": "silent_s", "slow_head": "head_s", "unread": "unread_s"}[why]: 0.05}
    run(world, replace(PATIENT, **short), step)


def test_bytes_do_not_put_the_deadline_of_a_head_off(world: World) -> None:
    async def step(port: Port) -> None:
        _, writer = await port.open(b"POST /classify HTTP/1.1\r\n")
        while not port.closed("slow_head"):
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.01)
        writer.close()

    run(world, replace(PATIENT, head_s=0.2), step)


def test_the_rest_of_a_refused_body_is_thrown_away_and_the_connection_goes_on(world: World) -> None:
    async def step(port: Port) -> None:
        body = b" " * 300_000
        reader, writer = await port.open(request(body[:10], "Content-Length: 300000", "Origin: null", length=False))
        assert await status_of(reader) == 403
        writer.write(body[10:] + ASK)
        assert await status_of(reader) == 200
        writer.close()

    run(world, PATIENT, step)


def test_a_refused_body_without_an_end_is_not_read_for_ever(world: World) -> None:
    async def step(port: Port) -> None:
        reader, writer = await port.open(request(b"", "Transfer-Encoding: chunked", "Origin: null", length=False))
        assert await status_of(reader) == 403
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        with suppress(ConnectionError):
            while True:
                writer.write(chunk)
                await writer.drain()
        assert port.closed("unread") == 1
        writer.close()

    run(world, replace(PATIENT, unread_bytes=1 << 20), step)


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    "sent",
    [
        request(CHUNKED, "Transfer-Encoding: chunked"),
        request(CHUNKED, "Transfer-Encoding: chunked", target="POST /classify HTTP/1.0", length=False),
        request(CHUNKED, "Transfer-Encoding: chunked", target="GET /nowhere HTTP/1.1"),
        request(BODY, "Content-Length: 1"),
        request(BODY, "Content-Length: 1, 2", length=False),
        request(BODY, "Content-Length: +1", length=False),
        request(CHUNKED, "Transfer-Encoding: chunked, identity", length=False),
        request(CHUNKED, "Transfer-Encoding : chunked", length=False),
        request(BODY, "Host: other"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_request_that_two_servers_may_read_in_two_ways_is_400_and_ends_the_connection(
    world: World, sent: bytes
) -> None:
    async def step(port: Port) -> None:
        reader, writer = await port.open(sent + ASK)
        assert await status_of(reader) == 400
        assert b"HTTP/1.1" not in await reader.read()
        writer.close()

    run(world, PATIENT, step)


def test_a_chunked_body_is_read_as_ever(world: World) -> None:
    async def step(port: Port) -> None:
        assert await port.status(request(CHUNKED, "Transfer-Encoding: chunked", length=False)) == 200

    run(world, PATIENT, step)


def test_nonsense_after_a_head_ends_the_connection_without_a_word_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def step(port: Port) -> None:
        for start in (request(b"zz\r\n", "Transfer-Encoding: chunked", length=False), ASK + b"\0\0\r\n\r\n"):
            reader, writer = await port.open(start)
            await reader.read()
            writer.close()
        assert await port.status(ASK) == 200

    run(world, PATIENT, step)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_client_that_does_not_take_its_answers_does_not_keep_its_place(world: World, ahead: int) -> None:
    many = request(b'{"model": "intent", "input": [' + b", ".join([b'"sure"'] * 256) + b"]}")
    small = ConnectionLimits(silent_s=600.0, head_s=600.0, unread_s=600.0, flush_s=0.2)

    async def step(port: Port) -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", port.number))
            answered = 0
            while not port.closed("unread"):  # until the kernel takes no more of the answers
                if port.gateway.admission.in_flight == 0 and answered < 200:
                    await loop.sock_sendall(client, many * (1 + ahead))
                    answered += 1
                await asyncio.sleep(0.02)

    run(world, small, step)


def test_at_the_end_requests_that_were_on_their_way_are_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def step(port: Port) -> None:
        silent, half = await port.open(), await port.open(ASK[:20])
        await eventually(lambda: len(port.connections) == 2)
        waiting: list[socket.socket] = []

        async def last_tick(counter: int) -> bool:
            for _ in range(40):  # let in by the kernel, and not accepted yet when the server ends
                waiting.append(socket.create_connection(("127.0.0.1", port.number)))
                waiting[-1].sendall(ASK)
            return True

        monkeypatch.setattr(port.server, "on_tick", last_tick)
        await eventually(lambda: not port.server.servers[0].is_serving())
        silent[1].write(ASK)
        half[1].write(ASK[20:])
        assert [await status_of(reader) for reader, _ in (silent, half)] == [200, 200]
        for one in waiting:
            reader, writer = await asyncio.open_connection(sock=one)
            assert await status_of(reader) == 200
            writer.close()
        await eventually(lambda: not port.connections)
        for _, writer in (silent, half):
            writer.close()

    run(world, PATIENT, step)
