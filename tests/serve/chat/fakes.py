"""Fakes for chat: a student, an endpoint that streams, and a world with a real port around them."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import uvicorn

from serve.app import build_app
from serve.lifecycle import Gateway
from serve.teacher.wire import BoundedTransport
from store.event import ChatInput, TaskInput
from store.redact import redact_noting
from store.student.loaded import ChatOpinion
from store.tasks.tasks import LaneTerms
from tests.serve.fakes import TEACHER, FakeEndpoint, FakeStudent, World, eventually

KEY = b"k" * 32
TALKER = replace(TEACHER, prompt="", parameters={"temperature": 0})


class FakeTalker(FakeStudent):
    """Says `you said: ` and the last message; sure, but where that begins with `unsure`, `long` or `cut`."""

    def look(self, inputs: Sequence[TaskInput]) -> list[Any]:
        if self.gate is not None:
            self.gate.wait(5)
        if self.failure is not None:
            raise self.failure
        self.batches.append(len(inputs))
        return [self.talk(value) for value in inputs]

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.seen: list[ChatInput] = []
        self.spelled: dict[str, str] = {}  # other answers, by question
        self.forms = True  # it was trained for whatever form is asked for

    def talk(self, value: TaskInput) -> ChatOpinion:
        assert isinstance(value, ChatInput)
        self.seen.append(value)
        last = value.messages[-1].content
        confidence = 0.5 if last.startswith("unsure") else 0.95
        words = self.spelled.get(last, f"you said: {last}")
        return ChatOpinion(
            output=words,
            confidence=confidence,
            uncertainty=1 - confidence,
            novelty=self.stamp,
            members=[[0.0, 1.0, 1.0, 0.0]],
            finish_reason="length" if last.startswith("cut") else "stop",
            tokens=list(range(len(words.split()))),
            logprobs=[-0.1] * len(words.split()),
            prompt_tokens=len(last.split()),
        )

    def supports(self, value: TaskInput) -> bool:
        assert isinstance(value, ChatInput)
        return self.forms or "response_format" not in value.shape

    def too_long(self, value: TaskInput) -> bool:
        assert isinstance(value, ChatInput)
        return value.messages[-1].content.startswith("long")

    def tokens(self, value: TaskInput) -> int:
        return 1

    def check_follows(self, serving: Any, *, removal_declared: bool) -> None:
        pass


@dataclass
class Pieces(httpx2.AsyncByteStream):
    """A body that comes piece by piece: after the first it may wait, and in the end break off."""

    pieces: Sequence[bytes]
    hold: asyncio.Event | None = None
    breaks: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for place, piece in enumerate(self.pieces):
            if place == 1 and self.hold is not None:
                await self.hold.wait()
            yield piece
        if self.breaks:
            message = "the connection broke"
            raise httpx2.ReadError(message)


class FakeTalkingTeacher(FakeEndpoint):
    """Streams where it is asked to; `message` is what it says, `held` lets all but the first event wait."""

    def __init__(self) -> None:
        super().__init__()
        self.message: dict[str, Any] = {"role": "assistant", "content": "the teacher says so"}
        self.finish_reason = "stop"
        self.held: asyncio.Event | None = None
        self.breaks = False

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        if self.failure is not None:
            raise self.failure
        if self.status != 200:
            return whole(self.status, {"error": {"message": "no"}})
        if body.get("stream"):
            stream = Pieces(self.events(), self.held, self.breaks)
            return httpx2.Response(200, stream=stream, headers={"Content-Type": "text/event-stream; charset=utf-8"})
        choice = {"index": 0, "message": self.message, "finish_reason": self.finish_reason, "logprobs": None}
        said = {"id": "t-1", "object": "chat.completion", "created": 1, "model": "big-2", "choices": [choice]}
        return whole(200, {**said, "usage": self.usage, "system_fingerprint": "fp"})

    def events(self) -> list[bytes]:
        """The stream's pieces: an event each, and one that is cut in two."""
        head = {"id": "t-1", "object": "chat.completion.chunk", "created": 1, "model": "big-2"}
        words = (self.message.get("content") or "").split(" ")
        texts = [words[0], *(f" {word}" for word in words[1:])]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": one} for one in texts)]
        made = [{**head, "choices": [{"index": 0, "delta": one, "finish_reason": None}]} for one in deltas]
        made.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": self.finish_reason}]})
        if not self.breaks:
            made.append({**head, "choices": [], "usage": self.usage})
        pieces = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in made]
        cut = pieces.pop(2)
        pieces[2:2] = [cut[:20], cut[20:]]
        return pieces if self.breaks else [*pieces, b"data: [DONE]\n\n"]

    def client(self) -> openai.AsyncOpenAI:
        transport = BoundedTransport(httpx2.MockTransport(self))
        return openai.AsyncOpenAI(
            base_url=TEACHER.base_url,
            api_key="none",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=transport),
        )


def whole(status: int, body: dict[str, Any]) -> httpx2.Response:
    """An answer that comes at once."""
    headers = {"Content-Type": "application/json"}
    return httpx2.Response(status, stream=Pieces([json.dumps(body).encode()]), headers=headers)


def chat_world(directory: Path, **changes: Any) -> World:
    """A world whose lane is a chat; the teacher is a `FakeTalkingTeacher`."""
    lane = {"task": "chat", "terms": LaneTerms(), "teacher": TALKER, **changes}
    return World(directory, endpoint=FakeTalkingTeacher(), changes=lane, noting=lambda text: redact_noting(text, KEY))


def teacher_in(world: World) -> FakeTalkingTeacher:
    assert isinstance(world.endpoint, FakeTalkingTeacher)
    return world.endpoint


def question(text: str = "hello", **more: Any) -> dict[str, Any]:
    """The body of a request."""
    return {"model": "intent", "messages": [{"role": "user", "content": text}], **more}


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[tuple[openai.AsyncOpenAI, Gateway, str]]:
    """The gateway on a real port of loopback, with the official client before it, unchanged."""
    app = build_app(world.services(), world.settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    running = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: server.started)
        gateway: Gateway = app.state.gateway
        await eventually(gateway.ready)
        port = server.servers[0].sockets[0].getsockname()[1]
        base_url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
            yield client, gateway, base_url
    finally:
        server.should_exit = True
        await running
