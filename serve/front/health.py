"""Health on the main port, for load balancers: a word, and nothing that a stranger should not know.

It is no traffic: no key is asked for, no turn is taken, nothing is counted. The admin port says why.
"""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


def health_routes(*, alive: Callable[[], bool], ready: Callable[[], bool]) -> list[Route]:
    """`/healthz`: restart it where this fails. `/readyz`: send it requests where this succeeds. GET and HEAD."""

    async def healthz(_: Request) -> Response:
        return _standing(good=alive())

    async def readyz(_: Request) -> Response:
        return _standing(good=alive() and ready())

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def _standing(*, good: bool) -> Response:
    return PlainTextResponse("ok\n" if good else "no\n", 200 if good else 503, headers={"Cache-Control": "no-store"})
