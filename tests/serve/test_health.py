"""Health on the main port says one word, and which one."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette

from serve.front.health import health_routes


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("alive", "ready", "codes"), [(True, True, (200, 200)), (True, False, (200, 503)), (False, True, (503, 503))]
)
def test_a_load_balancer_is_told_one_word(
    method: str,
    alive: bool,  # noqa: FBT001
    ready: bool,  # noqa: FBT001
    codes: tuple[int, int],
) -> None:
    app = Starlette(routes=health_routes(alive=lambda: alive, ready=lambda: ready))

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            for path, code in zip(("/healthz", "/readyz"), codes, strict=True):
                found = await client.request(method, path)
                assert (found.status_code, found.headers["cache-control"]) == (code, "no-store")
                assert found.text == ("" if method == "HEAD" else "ok\n" if code == httpx.codes.OK else "no\n")

    asyncio.run(ask())
