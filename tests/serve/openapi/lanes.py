"""One gateway on a port of loopback with a lane of each task, each with a fake student and teacher."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import uvicorn

from serve.app import build_app
from serve.lane.parts import Services
from serve.settings import GatewaySettings
from store.event import Lane
from tests.serve.chat.fakes import FakeTalker, chat_world
from tests.serve.fakes import World
from tests.serve.rank.fakes import FakeRanker, rank_world

KEY: Final = "a-key-that-opens-all-three"
LANES: Final = {"classify": "support", "rank": "shop", "chat": "desk"}
"""The use case of each task's lane."""


def _worlds(folder: Path) -> dict[str, World]:
    worlds = {"classify": World(folder), "rank": rank_world(folder), "chat": chat_world(folder)}
    worlds["classify"].serve()
    worlds["rank"].serve(student=FakeRanker())
    worlds["chat"].serve(student=FakeTalker())
    return worlds


def services(folder: Path, *keys: str) -> Services:
    """Of all three lanes, which these keys open; without any this machine alone."""
    lanes = []
    worlds = _worlds(folder)
    for task, world in worlds.items():
        world.api_keys = keys
        lanes.append(world.parts(Lane("acme", LANES[task])))
    return replace(worlds["classify"].services(), lanes=lanes)


@contextmanager
def listening(folder: Path, *keys: str) -> Iterator[str]:
    """The gateway, ready; yields its address."""
    settings = GatewaySettings(
        max_inputs=8, max_documents=8, max_text_chars=200, max_message_chars=20_000, follow_s=0.02
    )
    app = build_app(services(folder, *keys), settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, http="h11", log_level="error"))
    thread = threading.Thread(target=server.run, name="gateway")
    thread.start()
    try:
        until_s = monotonic() + 60
        while not (server.started and app.state.gateway.ready()) and monotonic() < until_s:
            sleep(0.01)
        assert app.state.gateway.ready()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
