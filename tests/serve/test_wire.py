"""The teacher over real sockets: what a server read and did not answer counts, and nothing else does."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count

import httpx2
import pytest

from serve.settings import BudgetSettings, TeacherSettings
from serve.teacher.budget import Budget
from serve.teacher.client import Answered, Reply, Teacher, Unavailable
from serve.teacher.wire import MAX_ANSWER_BYTES, BoundedTransport
from tests.serve.fakes import TEACHER, FakeLedger, teacher_of, text_input
from tests.serve.ledgers import Clock
from tests.serve.tcp_endpoint import (
    GOOD,
    Act,
    TcpEndpoint,
    answers,
    bomb,
    drips,
    floods,
    hangs,
    resets,
    says,
    talks_on,
)

SETTINGS = replace(TEACHER, attempts=3, timeout_s=20.0, breaker_failures=1000)


@asynccontextmanager
async def asking(url: str, settings: TeacherSettings = SETTINGS) -> AsyncIterator[Teacher]:
    teacher = teacher_of(replace(settings, base_url=url), monotonic=asyncio.get_running_loop().time)
    try:
        yield teacher
    finally:
        await teacher.close()


async def exhaust(teacher: Teacher, calls: int) -> tuple[int, list[Reply]]:
    """Ask until the budget of so many calls ends, or thirty times; what it counts as used, and the replies."""
    ledger, numbers = FakeLedger(calls), count()
    limits = BudgetSettings(calls_per_day=calls, audit_reserve_ratio=0.0)
    clock = Clock()
    budget = Budget(limits, ledger, now=clock, monotonic=clock, new_id=lambda: f"{next(numbers)}")
    replies: list[Reply] = []
    bound_usd = teacher.cost_bound_usd(text_input("a"))
    for _ in range(30):
        await budget.prepare("escalation", bound_usd)
        if not budget.allows("escalation", bound_usd):
            break
        spend = budget.take("escalation", bound_usd)
        reply = await teacher.ask(text_input("a"))
        replies.append(reply)
        free = isinstance(reply, Unavailable) and not reply.billed
        budget.settle(spend, None if free else bound_usd)
    await budget.close()
    return calls - ledger.left, replies


BROKEN: dict[str, Act] = {
    "closes": says(b""),
    "resets": resets,
    "half a header": says(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "half a body": says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
    "no http": says(b"220 mail.example.com ESMTP\r\n"),
    "bad gzip": answers(b"not gzip at all", "200 OK", "Content-Encoding: gzip"),
    "cut gzip": answers(gzip.compress(GOOD)[:-9], "200 OK", "Content-Encoding: gzip"),
    "unknown packing": answers(GOOD, "200 OK", "Content-Encoding: br"),
    "packed twice": answers(gzip.compress(gzip.compress(GOOD)), "200 OK", "Content-Encoding: gzip, gzip"),
    "not UTF-8": answers(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "huge number": answers(b'{"choices": ' + b"9" * 10_000 + b"}"),
    "500": answers(b"", "500 Internal Server Error"),
    "502": answers(b"", "502 Bad Gateway"),
    "504": answers(b"", "504 Gateway Time-out"),
    "520": answers(b"", "520 Unknown"),
    "524": answers(b"", "524 A Timeout Occurred"),
    "529": answers(b"", "529 Overloaded"),
    "204": answers(b"", "204 No Content"),
}


@pytest.mark.parametrize("act", BROKEN.values(), ids=BROKEN)
def test_what_a_server_read_counts_and_is_asked_no_more_often_than_the_budget_says(act: Act) -> None:
    async def main() -> None:
        async with TcpEndpoint(act).running() as endpoint, asking(endpoint.url) as teacher:
            used, replies = await exhaust(teacher, 10)
            assert endpoint.read == used == 10
            assert all(isinstance(reply, Unavailable) and reply.billed for reply in replies)

    asyncio.run(main())


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_what_was_refused_unread_is_sent_again_and_costs_nothing(status: str) -> None:
    async def main() -> None:
        act = answers(b"{}", status, "Retry-After: 0")
        async with TcpEndpoint(act).running() as endpoint, asking(endpoint.url) as teacher:
            used, replies = await exhaust(teacher, 10)
            assert used == 0
            assert endpoint.read == 3 * len(replies) == 90

    asyncio.run(main())


def test_a_server_that_is_not_there_costs_nothing() -> None:
    async def main() -> None:
        async with TcpEndpoint(hangs).running() as endpoint:
            url = endpoint.url
        async with asking(url, replace(SETTINGS, attempts=1)) as teacher:
            used, replies = await exhaust(teacher, 10)
            assert (used, len(replies)) == (0, 30)

    asyncio.run(main())


def test_a_server_that_does_not_take_the_connection_costs_nothing_and_one_that_hangs_does() -> None:
    async def main() -> None:
        settings = replace(SETTINGS, timeout_s=1.0, attempts=1)

        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()  # no TLS answer ever comes
            writer.close()

        server = await asyncio.start_server(deaf, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with asking(f"https://127.0.0.1:{port}/v1", settings) as teacher:
            reply = await teacher.ask(text_input("a"))
            assert isinstance(reply, Unavailable)
            assert not reply.billed
        server.close()
        await asyncio.sleep(0.05)  # in which both sides close
        async with TcpEndpoint(hangs).running() as endpoint, asking(endpoint.url, settings) as teacher:
            reply = await teacher.ask(text_input("a"))
            assert isinstance(reply, Unavailable)
            assert reply.billed

    asyncio.run(main())


def test_a_connection_that_is_never_made_costs_nothing_when_the_whole_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Nowhere(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            await asyncio.sleep(60)
            return httpx2.Response(200, request=request)

    monkeypatch.setattr(
        "serve.teacher.client.http_client",
        lambda **_: httpx2.AsyncClient(transport=BoundedTransport(Nowhere())),
    )

    async def main() -> None:
        async with asking("http://127.0.0.1:1/v1", replace(SETTINGS, timeout_s=0.2)) as teacher:
            reply = await teacher.ask(text_input("a"))
            assert isinstance(reply, Unavailable)
            assert reply.detail == "TimeoutError"
            assert not reply.billed

    asyncio.run(main())


@pytest.mark.parametrize("act", [drips, talks_on, floods], ids=["drips", "talks on", "floods"])
def test_an_answer_without_end_is_left(act: Act) -> None:
    async def main() -> None:
        settings = replace(SETTINGS, timeout_s=1.0)
        async with TcpEndpoint(act).running() as endpoint, asking(endpoint.url, settings) as teacher:
            reply = await teacher.ask(text_input("a"))
            assert isinstance(reply, Unavailable)
            assert reply.billed
            assert endpoint.read == 1

    asyncio.run(main())


@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error", "400 Bad Request"])
def test_an_answer_that_unpacks_to_many_megabytes_is_never_unpacked(status: str) -> None:
    async def main() -> None:
        packed = bomb(64)
        assert len(packed) < MAX_ANSWER_BYTES
        act = answers(packed, status, "Content-Encoding: gzip")
        async with TcpEndpoint(act).running() as endpoint, asking(endpoint.url) as teacher:
            tracemalloc.start()
            try:
                reply = await teacher.ask(text_input("a"))
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert isinstance(reply, Unavailable)
            assert peak < 16 * MAX_ANSWER_BYTES
            assert endpoint.read == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (gzip.compress(GOOD), "gzip"),
        (zlib.compress(GOOD), "deflate"),
        (zlib.compress(GOOD, wbits=-15), "deflate"),
        (GOOD, "identity"),
    ],
)
def test_an_answer_that_is_packed_unasked_is_read(body: bytes, coding: str) -> None:
    async def main() -> None:
        act = answers(body, "200 OK", f"Content-Encoding: {coding}")
        async with TcpEndpoint(act).running() as endpoint, asking(endpoint.url) as teacher:
            assert isinstance(await teacher.ask(text_input("a")), Answered)
            assert b"accept-encoding: identity" in endpoint.heads[0].lower()

    asyncio.run(main())


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_never_followed_and_says_where_it_leads(status: str) -> None:
    async def main() -> None:
        async with TcpEndpoint(answers()).running() as other:
            act = answers(b"", status, f"Location: http://localhost:{other.port}/v1/secret?text=private")
            async with TcpEndpoint(act).running() as endpoint, asking(endpoint.url) as teacher:
                reply = await teacher.ask(text_input("a"))
                assert isinstance(reply, Unavailable)
                assert "localhost" in reply.detail
                assert "private" not in reply.detail
                assert reply.billed
                assert teacher.refused == "address"
                assert (endpoint.read, other.read) == (1, 0)

    asyncio.run(main())


def test_the_environments_proxies_are_not_used_and_the_configured_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with TcpEndpoint(answers()).running() as proxy, TcpEndpoint(answers()).running() as endpoint:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            async with asking(endpoint.url) as teacher:
                assert isinstance(await teacher.ask(text_input("a")), Answered)
                assert (endpoint.read, proxy.read) == (1, 0)
            settings = replace(SETTINGS, proxy=f"http://127.0.0.1:{proxy.port}")
            async with asking(endpoint.url, settings) as teacher:
                assert isinstance(await teacher.ask(text_input("a")), Answered)
                assert (endpoint.read, proxy.read) == (1, 1)

    asyncio.run(main())


def test_an_endpoints_cookies_are_not_kept() -> None:
    async def main() -> None:
        act = answers(GOOD, "200 OK", "Set-Cookie: a=b")
        async with TcpEndpoint(act).running() as endpoint, asking(endpoint.url) as teacher:
            await teacher.ask(text_input("a"))
            await teacher.ask(text_input("a"))
            assert not any(b"cookie" in head.lower() for head in endpoint.heads)

    asyncio.run(main())


def test_a_wait_that_the_endpoint_asks_for_is_kept_or_else_it_is_not_asked_again() -> None:
    async def main() -> None:
        for header, read in (("0", 3), ("3600", 1), ("-1", 3), ("nan", 1), ("soon", 1), ("1e999", 1)):
            act = answers(b"", "503 Service Unavailable", f"Retry-After: {header}")
            async with TcpEndpoint(act).running() as endpoint, asking(endpoint.url) as teacher:
                assert isinstance(await teacher.ask(text_input("a")), Unavailable)
                assert endpoint.read == read, header
        dates = ("Date: Wed, 21 Oct 2026 07:28:00 GMT", "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT")
        act = answers(b"", "503 Service Unavailable", *dates)
        async with TcpEndpoint(act).running() as endpoint, asking(endpoint.url) as teacher:
            assert isinstance(await teacher.ask(text_input("a")), Unavailable)
            assert endpoint.read == 3

    asyncio.run(main())


def test_a_call_that_is_cancelled_is_cancelled_and_gives_its_turn_back() -> None:
    async def main() -> None:
        settings = replace(SETTINGS, concurrency=1)
        async with TcpEndpoint(hangs).running() as endpoint, asking(endpoint.url, settings) as teacher:
            call = asyncio.create_task(teacher.ask(text_input("a")))
            while not endpoint.read:  # noqa: ASYNC110 - of another task on a real socket
                await asyncio.sleep(0.005)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            endpoint.act = answers()
            assert isinstance(await teacher.ask(text_input("a")), Answered)

    asyncio.run(main())
