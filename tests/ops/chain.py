"""An installation's own parts from a question to a snapshot: gateway, publisher, log, ingest, buffer, trainer."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import httpx
import msgspec
import redis
from prometheus_client import CollectorRegistry, generate_latest

from ops.answers.reading import Reading
from ops.init import init
from ops.open_log import ensure_topics, open_appender
from ops.settings import Settings
from ops.site import Site
from ops.wiring import ingest as ingest_wiring
from ops.wiring import serve as serve_wiring
from serve.app import build_app
from store.event import ClassifyEscalation, LabelAnswer, Lane, TaskInput, wall_clock_s
from store.student.loaded import LabelOpinion
from stream.metrics import IngestMetrics
from stream.publisher import Publisher
from stream.spool import Spool
from tests.contracts.escalations import escalation
from tests.ops.stand import until
from tests.ops.wired import write_settings
from tests.serve.fakes import FakeEndpoint, FakeRegistry, FakeStudent, eventually, text_of
from trainer.learn.classify.freezing import LabelFreezing
from trainer.snapshot import Snapshot, SplitSettings, freeze

LANE: Final = Lane("acme", "support")
LABELS: Final = ("yes", "no", "maybe")


class ReadingStudent(FakeStudent):
    """Remembers what it was given to read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def look(self, inputs: Sequence[TaskInput]) -> list[LabelOpinion]:
        self.read += map(text_of, inputs)
        return super().look(inputs)


@dataclass
class Chain:
    """One installation on a Redis of its own; its settings may be changed between the steps."""

    folder: Path
    redis_url: str
    endpoint: FakeEndpoint = field(default_factory=FakeEndpoint)
    student: ReadingStudent = field(default_factory=ReadingStudent)
    registries: list[CollectorRegistry] = field(default_factory=list)  # one a process

    def __post_init__(self) -> None:
        init(self.folder)
        self.client = redis.Redis.from_url(self.redis_url)

    def site(self, **changes: object) -> Site:
        """The installation under settings with some of the lane's keys changed."""
        lane = {
            "tenant": LANE.tenant,
            "use_case": LANE.use_case,
            "labels": list(LABELS),
            "training_permitted": True,
            "audit_ratio": 0.0,
            "budget.calls_per_day": 1000,
            "teacher.base_url": "http://teacher.invalid/v1",
            "teacher.model": "big",
            "teacher.prompt_file": "prompts/classify.txt",
            **changes,
        }
        values = {"redis.url": self.redis_url, "trainer.quarantine_s": 0.0, "gateway.debug": True}
        path = write_settings(
            self.folder / "understudy.toml", values | {f"lanes.{name}": value for name, value in lane.items()}
        )
        return Site(Settings.load(path))

    def ask(self, site: Site, *questions: dict[str, Any], **headers: str) -> list[httpx.Response]:
        """Ask the gateway, one question after the other, and stop it in order."""
        ensure_topics(site, self.client)
        found = FakeRegistry()
        found.students["a"] = self.student
        found.move("a")

        async def run() -> list[httpx.Response]:
            spool = Spool(site.settings.state_dir / "spool", site.settings.spool.max_bytes)
            publisher = Publisher(open_appender(site, self.client), spool, ack_timeout_s=30.0)
            services = serve_wiring.services(site, self.client, publisher, self._registry())
            lanes = [
                replace(parts, teacher_client=self.endpoint.client(), versions=found.versions())
                for parts in services.lanes
            ]
            app = build_app(replace(services, lanes=lanes), serve_wiring.gateway_settings(site.settings))
            transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=named) as client,
            ):
                await eventually(app.state.gateway.ready, 60.0)
                return [await client.post("/classify", json={"model": "support", **each}) for each in questions]

        return asyncio.run(run())

    def send(self, site: Site, *values: bytes) -> None:
        """Records as any producer may send them."""
        ensure_topics(site, self.client)
        appender = open_appender(site, self.client)
        for value in values:
            appender.append("understudy.support", key=b"k", value=value).result(60)
        appender.close()

    def event(self, text: str, label: str, *, number: int = 0, eligible: bool = True) -> ClassifyEscalation:
        """An event of today's teacher and prompt that has not come through our gateway."""
        section = self.site().settings.lanes[0]
        teacher = LabelAnswer(model="big", prompt_version=Reading.of(section).version(), label=label)
        made = escalation(text, number=number, eligible=eligible)
        return msgspec.structs.replace(made, teacher=teacher)

    def ingest(self, site: Site, records: int) -> None:
        """Let ingest take so many records, all told, and stop it."""
        ensure_topics(site, self.client)
        appender, stop = open_appender(site, self.client), threading.Event()
        metrics = IngestMetrics.create(self._registry())
        ingest = ingest_wiring.ingest(site, self.client, appender, LANE.use_case, "me", metrics)
        thread = threading.Thread(target=ingest.run, args=(stop,))
        thread.start()
        try:
            until(lambda: self.taken(site) >= records)
        finally:
            stop.set()
            thread.join(60)
            appender.close()
        assert self.taken(site) == records

    def taken(self, site: Site) -> int:
        """How many records are accounted for."""
        buffer = site.buffer(self.client)
        counters = buffer.counters(LANE)
        return counters.counted + counters.repeats + counters.ineligible + sum(buffer.dead(LANE.use_case).values())

    def snapshot(self, site: Site) -> Snapshot:
        """What a cycle would draw now."""
        section = site.settings.lanes[0]
        return freeze(
            site.buffer(self.client).items(LANE),
            LabelFreezing(labels_min=1),
            prompt_version=Reading.of(section).key(),
            split=SplitSettings(salt="test", calibrate_ratio=0.0, judge_ratio=0.0),
            quarantine_s=0.0,
            now_s=wall_clock_s(),
            seed=0,
            positions={},
            allowed_labels=section.labels,
        )

    def metrics(self) -> bytes:
        """What Prometheus is told by gateway and ingest."""
        return b"".join(map(generate_latest, self.registries))

    def _registry(self) -> CollectorRegistry:
        self.registries.append(CollectorRegistry())
        return self.registries[-1]

    def kept_in_redis(self) -> dict[bytes, bytes]:
        """All that Redis holds, by key, as it is there: names of keys included."""
        readers: dict[bytes, Any] = {
            b"string": self.client.get,
            b"hash": self.client.hgetall,
            b"set": self.client.smembers,
            b"list": lambda name: self.client.lrange(name, 0, -1),
            b"zset": lambda name: self.client.zrange(name, 0, -1, withscores=True),
            b"stream": self.client.xrange,
        }
        names = cast("list[bytes]", list(self.client.scan_iter()))
        return {name: name + repr(readers[cast("bytes", self.client.type(name))](name)).encode() for name in names}
