"""What `ops` makes of a settings file: the very parts that the processes run with, and what a process listens on."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import httpx
import pytest
import redis
from prometheus_client import CollectorRegistry

import serve.teacher.client
import store.student.tasks
from ops.logs import lines
from ops.open_log import open_appender
from ops.processes.run import ingest as run_ingest
from ops.processes.run import serve as run_serve
from ops.processes.run import start
from ops.processes.run import train as run_train
from ops.settings import Settings
from ops.site import Site
from ops.wiring import ingest as ingest_wiring
from ops.wiring import serve as serve_wiring
from ops.wiring import train as train_wiring
from serve.app import build_app
from serve.engine.fleet import Fleet
from serve.lane.opened import OpenLane
from serve.lane.parts import Services
from serve.lifecycle import Gateway
from serve.routing.budget import BudgetRouting
from serve.routing.horizon import DayHorizon
from serve.student.devices import Device
from serve.student.executor import Executor
from serve.student.slot import Slot
from serve.teacher.wire import http_client
from store.registry.moves import Standing
from store.registry.versions import Versions
from stream.ingest import Ingest
from stream.metrics import IngestMetrics
from tests.serve.fakes import FakeEndpoint, FakeSink, FakeStudent, text_input
from trainer.schedule import Trainer
from trainer.work import CycleWork

NOWHERE: Final = "unix:///nowhere/redis.sock"


class _StoppedError(Exception):
    """A process has shown what was to be seen of its start."""


def write_settings(path: Path, values: Mapping[str, object]) -> Path:
    """A settings file from dotted keys; those of the one lane begin with `lanes.`, and None leaves a key out."""
    tables: dict[str, dict[str, object]] = {"": {}}
    for name, value in values.items():
        table, _, key = name.rpartition(".")
        if value is not None:
            tables.setdefault(table, {})[key] = value
    text: list[str] = []
    for table in sorted(tables):
        if table:
            text.append("[[lanes]]" if table == "lanes" else f"[{table}]")
        text += [f"{key} = {_toml(value)}" for key, value in tables[table].items()]
    path.write_text("\n".join(text) + "\n", "utf-8")
    return path


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


@dataclass(frozen=True)
class Wired:
    """One installation and what is made of it, each part when it is first looked at."""

    path: Path
    patch: pytest.MonkeyPatch

    @property
    def folder(self) -> Path:
        return self.path.parent

    @cached_property
    def site(self) -> Site:
        return Site(Settings.load(self.path))

    @cached_property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.site.settings.redis.url or NOWHERE)

    def services(self) -> Services:
        return serve_wiring.services(self.site, self.client, FakeSink(), CollectorRegistry())

    @cached_property
    def gateway(self) -> Gateway:
        return Gateway(self.services(), serve_wiring.gateway_settings(self.site.settings))

    @property
    def lane(self) -> OpenLane:
        (lane,) = self.gateway.lanes
        return lane

    def device(self) -> Device:
        """What the lane's students run on."""
        device = self.gateway.devices.of(Slot(version="a", student=FakeStudent()))
        self.gateway.devices.close()
        return device

    def executor(self) -> Executor:
        """What runs them."""
        executor = self.device().executor
        assert isinstance(executor, Executor)
        return executor

    def horizon(self) -> DayHorizon:
        """What a lane that only has a budget plans with."""
        routing = self.lane.service.routing
        assert isinstance(routing, BudgetRouting)
        assert isinstance(routing.horizon, DayHorizon)
        return routing.horizon

    @cached_property
    def ingest(self) -> Ingest:
        (use_case,) = self.site.use_cases
        metrics = IngestMetrics.create(CollectorRegistry())
        return ingest_wiring.ingest(
            self.site, self.client, open_appender(self.site, self.client), use_case, "me", metrics
        )

    @cached_property
    def trainer(self) -> Trainer:
        return train_wiring.trainer(self.site, self.client, "me")

    @property
    def work(self) -> CycleWork:
        """What the trainer hands to the cycle's process."""
        (training,) = self.trainer.lanes
        return self.trainer._conductor.work(training, "head", None, Standing(), 0.0)

    def kafka_source(self) -> dict[str, Any]:
        """What ingest's reader of Kafka is made with."""
        seen: dict[str, Any] = {}
        self.patch.setattr("stream.kafka.source.KafkaSource", lambda settings, *_, **__: seen.update(settings=settings))
        _ = self.ingest
        return seen

    def ask(self, text: str = "where is it", *, host: str = "127.0.0.1", **headers: str) -> str:
        """What becomes of a question from this machine that nobody can answer: the code of the refusal."""
        return self._refusal("/classify", {"model": "support", "input": text}, host, headers)

    def chat(self, text: str) -> str:
        """The same of a conversation."""
        body = {"model": "support", "messages": [{"role": "user", "content": text}]}
        return self._refusal("/v1/chat/completions", body, "127.0.0.1", {})

    def _refusal(self, path: str, body: Mapping[str, Any], host: str, headers: Mapping[str, str]) -> str:
        async def post() -> str:
            app = build_app(self.services(), serve_wiring.gateway_settings(self.site.settings))
            transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers=named) as client:
                response = await client.post(path, json=body)
            return str(response.json()["error"]["code"])

        return asyncio.run(post())

    def ask_teacher(self, answer: str = "refund") -> tuple[dict[str, Any], Any]:
        """The body that the lane's teacher is sent, and what is made of its answer."""
        endpoint, teacher = FakeEndpoint(), self.lane.teacher
        endpoint.answer = answer

        async def ask() -> Any:
            self.patch.setattr(teacher, "_client", endpoint.client())
            self.patch.setattr(teacher, "_traced", False)
            return await teacher.ask(text_input("where is it"))

        reply = asyncio.run(ask())
        return endpoint.bodies[0], reply

    def teachers_client(self) -> dict[str, Any]:
        """What the connection to the teacher's endpoint is made with."""
        seen: dict[str, Any] = {}
        real = http_client

        def record(**options: Any) -> Any:
            seen.update(options)
            return real(**options)

        self.patch.setattr(serve.teacher.client, "http_client", record)
        _ = self.lane
        return seen

    def loaded_with(self) -> dict[str, Any]:
        """What the gateway loads a version with."""
        seen: dict[str, Any] = {}
        self.patch.setattr(Versions, "open", lambda *_: None)
        self.patch.setattr(Versions, "load", lambda _, __, build: build(None))
        self.patch.setattr("torch.set_num_threads", lambda threads: seen.update(threads=threads))
        self.patch.setattr(store.student.tasks, "load", lambda _, **options: seen.update(options))
        self.lane.parts.versions.ready()
        self.lane.parts.versions.load("a version")
        return seen

    def loaded_elsewhere(self) -> dict[str, Any]:
        """What a version is loaded with on the lane's servers; nothing where this process loads it."""
        seen: dict[str, Any] = {}

        def load_remote(_: object, fleet: Fleet, **options: Any) -> None:
            fleet.close()
            seen.update(options, servers=[one.server for one in fleet.replicas])

        self.patch.setattr("serve.engine.remote.load_remote", load_remote)
        self.loaded_with()
        return seen

    def started(self, process: str) -> dict[str, Any]:
        """What a process shows of itself up to where it would begin to work."""
        seen: dict[str, Any] = {"debug": False}

        def announce(**_: object) -> None:
            raise _StoppedError

        @contextmanager
        def daemon(*_: object, **__: object) -> Iterator[Any]:
            yield SimpleNamespace(stop=threading.Event(), announce=announce)

        @contextmanager
        def admin_server(host: str, port: int, _: object, *, hosts: object, pages: object) -> Iterator[int]:
            seen.update(admin_host=host, admin_port=port, admin_hosts=hosts)
            yield port

        def listen(host: str, port: int, _: object) -> None:
            seen.update(host=host, port=port)
            raise _StoppedError

        def publisher(_: object, spool: Any, *, ack_timeout_s: float) -> FakeSink:
            seen.update(spool_bytes=spool._max_bytes, spool_folder=spool._directory, ack_timeout_s=ack_timeout_s)
            spool.close()
            return FakeSink()

        seen["metrics"] = CollectorRegistry()
        stubs: dict[str, Any] = {
            "process_of": daemon,
            "admin_server": admin_server,
            "_listen": listen,
            "Publisher": publisher,
            "REGISTRY": seen["metrics"],
            "raise_file_limit": lambda: 100_000,
        }
        module = {"serve": run_serve, "ingest": run_ingest, "train": run_train}[process]
        for name in ("refuse_evicting", "make_topics", "import_module"):
            stubs[name] = lambda *_: None
        for name, stub in stubs.items():
            for place in (module, start):
                if hasattr(place, name):
                    self.patch.setattr(place, name, stub)
        self.patch.setattr(lines, "show_debug", lambda _: seen.update(debug=True))
        with suppress(_StoppedError):
            getattr(module, f"run_{process}")(self.site, None)
        return seen
