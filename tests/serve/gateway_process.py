"""A gateway in a process of its own, with a slow teacher: `python -m tests.serve.gateway_process FOLDER TEACHER_S`.

It prints its port, appends each accepted event to FOLDER/events.jsonl and each call that the teacher was paid for to
FOLDER/paid.jsonl.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

import httpx2
import uvicorn

from serve.app import build_app
from serve.front.listener import listen
from serve.settings import GatewaySettings
from store.event import Escalation, encode
from tests.serve.fakes import FakeEndpoint, FakeSink, World


class FileSink(FakeSink):
    """Accepts an event by fsync."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    async def publish(self, event: Escalation, item_id: str, *, traceparent: str | None = None) -> None:
        await super().publish(event, item_id, traceparent=traceparent)
        with self.path.open("ab") as file:
            file.write(encode(event) + b"\n")
            file.flush()
            os.fsync(file.fileno())


class SlowEndpoint(FakeEndpoint):
    """Answers after a while, and is paid from the moment it was asked."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__()
        self.path = path
        self.seconds = seconds

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        with self.path.open("a") as file:
            file.write(json.dumps(json.loads(request.content)["messages"][0]["content"]) + "\n")
        await asyncio.sleep(self.seconds)
        return await super().__call__(request)


def main() -> None:
    """Serve until SIGTERM."""
    folder, teacher_s = Path(sys.argv[1]), float(sys.argv[2])
    world = World(
        folder,
        settings=GatewaySettings(grace_s=20.0),
        sink=FileSink(folder / "events.jsonl"),
        endpoint=SlowEndpoint(folder / "paid.jsonl", teacher_s),
        audit_ratio=1.0,
    )
    world.serve()
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            build_app(world.services(), world.settings), log_level="error", timeout_graceful_shutdown=1
        )
        print(listener.getsockname()[1], "torch" in sys.modules, flush=True)  # noqa: T201
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
