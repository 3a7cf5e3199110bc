"""The gateway's own span of each request, or, where tracing is off, its client's trace context passed on."""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final

from starlette.datastructures import Headers

from store.tracing import names
from store.tracing.spans import Context, Tracer, context_of, within

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]
_OUR_FAULT: Final = 500


class TracedRequests:
    """An ASGI application around the gateway's: whatever a request brings about belongs to its span, streams too."""

    def __init__(self, app: _App, *, tracer: Tracer, paths: Collection[str]) -> None:
        """Wrap the application; requests of other paths are passed on."""
        self._app = app
        self._tracer = tracer
        self._paths = frozenset(paths)

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """One request, or the application's lifespan."""
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        said = {
            names.HTTP_METHOD: method,
            names.HTTP_ROUTE: path,
            names.URL_PATH: path,
            names.URL_SCHEME: scope.get("scheme", "http"),
        }
        parent = _sent(Headers(scope=scope))
        with self._tracer.begin(f"{method} {path}", "server", said, parent) as one, within(one):

            async def answer(message: _Message) -> None:
                if message["type"] == "http.response.start":
                    one.note({names.HTTP_STATUS: message["status"]})
                    if message["status"] >= _OUR_FAULT:
                        one.fail(str(message["status"]))
                await send(message)

            await self._app(scope, receive, answer if one.recording else send)


def _sent(headers: Headers) -> Context | None:
    """The client's trace context: of more than one `traceparent` none holds, of `tracestate` all together."""
    parents = headers.getlist("traceparent")
    return context_of(parents[0], ",".join(headers.getlist("tracestate"))) if len(parents) == 1 else None
