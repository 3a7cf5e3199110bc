"""A teacher on a real port that says what it is told to, and the recording proxy before it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ops.recording.command import alone, recorder
from ops.recording.options import Options
from serve.front.listener import listen
from tests.ops.children import until


@dataclass
class FakeTeacher:
    """Answers in OpenAI's and Cohere's shapes; a stream waits after its first word while `held`."""

    said: str = "hello there"
    status: int = 200
    breaks: bool = False  # off, in the middle of a stream
    held: threading.Event | None = None
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    def app(self) -> Starlette:
        routes = [Route("/v1/{path:path}", self.answer, methods=["GET", "POST"])]
        return Starlette(routes=routes)

    async def answer(self, request: Request) -> Response:
        raw = await request.body()
        body = json.loads(raw) if raw else {}
        self.seen.append((request.url.path, dict(request.headers), body))
        if self.status != 200:
            return JSONResponse({"error": {"message": "no"}}, self.status, headers={"Retry-After": "7"})
        if request.url.path.endswith("/rerank"):
            results = [{"index": n, "relevance_score": 1 / (n + 1)} for n in reversed(range(len(body["documents"])))]
            return JSONResponse({"id": "r", "results": results})
        if not request.url.path.endswith("/chat/completions"):
            return JSONResponse({"object": "list", "data": [{"id": "big"}]})
        head = {"id": "c-1", "created": 1, "model": "big-2"}
        if body.get("stream"):
            return StreamingResponse(self.events(head), media_type="text/event-stream")
        message = {"role": "assistant", "content": self.said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice]})

    async def events(self, head: dict[str, Any]) -> AsyncIterator[bytes]:
        for place, word in enumerate(self.said.split(" ")):
            delta = {"content": word if place == 0 else f" {word}"}
            yield event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            while self.held is not None and not self.held.is_set():  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.01)
            if self.breaks:
                message = "off"
                raise ConnectionError(message)
        yield event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@contextmanager
def serving(app: Starlette) -> Iterator[int]:
    """An application on a free port of loopback, on a thread."""
    with listen("127.0.0.1", 0) as listening:
        config = uvicorn.Config(app, ws="none", log_config=None, timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def recording(teacher: FakeTeacher, **options: Any) -> Iterator[str]:
    """The proxy before a teacher; yields the address that clients take."""
    with serving(teacher.app()) as port:
        asked = Options(teacher_url=f"http://127.0.0.1:{port}/v1", **options)
        with alone(asked.out) as secret, serving(recorder(asked, secret)) as own:
            yield f"http://127.0.0.1:{own}/v1"
