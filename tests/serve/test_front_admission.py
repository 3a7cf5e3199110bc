"""Requests are judged by their head: web pages, foreign names and strangers are refused before a body is read."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from serve.front.admission import is_local
from serve.front.connections import ConnectionLimits
from serve.front.names import host_name, known_host
from serve.lifecycle import Gateway
from serve.settings import GatewaySettings
from tests.serve.client import run
from tests.serve.fakes import World, eventually
from tests.serve.ports import request, serving, status_of

BODY = b'{"model": "intent", "input": "unsure of it"}'
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def statuses(world: World, cases: list[Mapping[str, str]], host: str = "127.0.0.1") -> list[int]:
    """The statuses of one request with each of these headers."""
    found: list[int] = []

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        found.extend(
            [(await client.post("/classify", content=BODY, headers=JSON | dict(case))).status_code for case in cases]
        )

    run(world, step, host)
    return found


def test_a_web_page_is_not_answered_whatever_it_sends_and_nothing_is_spent(world: World) -> None:
    pages: list[Mapping[str, str]] = [
        {"Origin": "https://evil.example", "Host": "evil.example", "Content-Type": "text/plain"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8080"},
        {"Host": "localhost.evil.example"},
    ]
    types = [
        "text/plain",
        "",
        "application/x-www-form-urlencoded",
        "text/plain; application/json",
        "multipart/form-data",
    ]
    found = statuses(world, [*pages, *({"Content-Type": one} for one in types)])
    assert found == [403] * len(pages) + [415] * len(types)
    assert (world.endpoint.bodies, world.sink.events) == ([], [])


def test_this_machine_and_its_names_are_answered(world: World) -> None:
    world.settings = GatewaySettings(
        allowed_hosts=frozenset({"models.example"}), allowed_origins=frozenset({"https://d"})
    )
    good: list[Mapping[str, str]] = [
        {},
        {"Host": "localhost:8080"},
        {"Host": "[::1]:8080"},
        {"Host": "10.1.2.3"},
        {"Host": "Models.Example.:443"},
        {"Content-Type": "Application/JSON; charset=utf-8"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://d", "Sec-Fetch-Site": "cross-site"},
    ]
    assert statuses(world, good) == [200] * len(good)


def test_with_a_key_any_name_is_answered_and_no_page_still(world: World) -> None:
    world.api_keys = ("a-key-of-some-length",)
    keyed = {"Authorization": "Bearer a-key-of-some-length", "Host": "public.example"}
    assert statuses(world, [keyed, keyed | {"Origin": "https://evil.example"}], host="192.0.2.7") == [200, 403]


def test_what_a_proxy_here_forwards_for_somebody_else_is_not_local(world: World) -> None:
    forwarded: list[Mapping[str, str]] = [
        {"X-Forwarded-For": "192.0.2.7"},
        {"X-Forwarded-For": "127.0.0.1, 192.0.2.7"},
        {"X-Real-IP": "192.0.2.7"},
        {"Forwarded": "for=192.0.2.7"},
        {"X-Forwarded-For": "127.0.0.1"},
    ]
    assert statuses(world, forwarded) == [401, 401, 401, 401, 200]
    assert not is_local("192.0.2.7", {"x-forwarded-for": "127.0.0.1"})


@pytest.mark.parametrize(
    ("host", "name"),
    [("A.b:80", "a.b"), ("a.b.", "a.b"), ("[::1]", "::1"), ("[::1]:80", "::1"), ("a", "a"), ("", ""), ("a:b", "a:b")],
)
def test_a_host_has_one_name_however_it_is_written(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize("host", ["", "0x7f.1", "2130706433", "127.1", "[evil.example]", "localhost@evil.example"])
def test_what_only_looks_like_an_address_is_none(host: str) -> None:
    assert not known_host(host, frozenset())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Content-Length: 4000000"], 401),
        (["Transfer-Encoding: chunked"], 401),
        (["Content-Length: 4000000", "X-API-Key: wrong"], 401),
        (["Content-Length: 5000000", "X-API-Key: right"], 413),
        (["Content-Length: 99999999999999999999", "X-API-Key: right"], 413),
    ],
)
def test_a_stranger_and_a_body_that_is_too_large_are_refused_before_the_body_is_read(
    world: World, headers: list[str], status: int
) -> None:
    world.api_keys = ("right",)

    async def main() -> None:
        async with serving(world, ConnectionLimits()) as port:
            reader, writer = await port.open(request(b"", *headers, length=False))
            assert await status_of(reader) == status
            writer.close()

    asyncio.run(main())


def test_over_the_bound_of_all_bodies_the_largest_is_refused_and_small_ones_are_answered(world: World) -> None:
    world.settings = GatewaySettings(max_buffered_bytes=200_000)

    async def main() -> None:
        async with serving(world, ConnectionLimits()) as port:
            start = request(b" " * 60_000, "Content-Length: 65000", length=False)
            large = [await port.open(start) for _ in range(8)]
            found = [asyncio.create_task(status_of(reader)) for reader, _ in large]
            await eventually(lambda: sum(one.done() for one in found) == 5)  # three fit
            assert await port.status(request(BODY)) == 200
            for _, writer in large:
                writer.write(b" " * (5_000 - len(BODY)) + BODY)
            assert sorted(await asyncio.gather(*found)) == [200, 200, 200] + [503] * 5
            for _, writer in large:
                writer.close()

    asyncio.run(main())
