"""Fakes of what the gateway is given: a student, a teacher's endpoint, a sink, a registry and a ledger."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import httpx2
import openai
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from serve.app import build_app
from serve.front.kept import Shared
from serve.lane.parts import LaneParts, Services
from serve.lifecycle import Gateway
from serve.metrics import ServeMetrics
from serve.settings import BudgetSettings, GatewaySettings, LaneSettings, TeacherSettings
from serve.student.loads import Versions
from serve.teacher.ask.classify import AskForLabel
from serve.teacher.client import Teacher
from serve.teacher.ledger import CallKind, Grant
from serve.teacher.memory_ledger import MemoryLedger
from serve.teacher.spent import Witness
from store.control import Heartbeat
from store.errors import BrokenChainError, StoreUnavailableError
from store.event import Escalation, Lane, TaskInput, TextInput
from store.labels import check_label_map
from store.money.tally import Write
from store.policy import Policy
from store.redact import Redact
from store.student.loaded import LabelOpinion
from store.tasks.tasks import LaneTerms
from store.tracing.spans import OFF, Tracer

LABELS = ("yes", "no", "maybe")
LANE = Lane("acme", "intent")
POLICY = Policy(
    temperature=1.0,
    threshold=0.8,
    novelty_threshold=0.5,
    target=0.9,
    confidence_level=0.95,
    coverage_ratio=0.5,
    rows=100,
    lower=0.91,
)
TEACHER = TeacherSettings(
    base_url="http://teacher.invalid/v1",
    model="big",
    prompt="One of:\n$labels\nText: $text",
    parameters={"temperature": 0, "max_tokens": 8},
    input_usd_per_mtok=1.0,
    output_usd_per_mtok=2.0,
    attempts=1,
    timeout_s=5.0,
)


class FakeStudent:
    """Says `yes` with the confidence that the text names: `sure …` .95, `unsure …` .5; `novel …` is novel."""

    def __init__(self, *, labels: Sequence[str] = LABELS, policy: Policy | None = POLICY, stamp: float = 0.0) -> None:
        self.labels = tuple(labels)
        self.policy = policy
        self.golden_tolerance = 0.02
        self.stamp = stamp  # novelty of every text: tells which student answered
        self.deviation = 0.0
        self.failure: Exception | None = None
        self.batches: list[int] = []
        self.gate: threading.Event | None = None

    def look(self, inputs: Sequence[TaskInput]) -> list[LabelOpinion]:
        if self.gate is not None:
            self.gate.wait(5)
        if self.failure is not None:
            raise self.failure
        self.batches.append(len(inputs))
        return [self.opinion(text_of(value)) for value in inputs]

    def opinion(self, text: str) -> LabelOpinion:
        """What it says to one text."""
        first = self.confidence(text)
        probs = [first] + [(1 - first) / (len(self.labels) - 1)] * (len(self.labels) - 1)
        low, high = sorted(probs)[-2:]
        return LabelOpinion(
            output=self.labels[probs.index(high)],
            confidence=high,
            uncertainty=1 - (high - low),
            novelty=0.9 if text.startswith("novel") else self.stamp,
            members=[probs, probs],
            probs=probs,
            labels=self.labels,
        )

    def confidence(self, text: str) -> float:
        """In the first label."""
        return 0.5 if text.startswith("unsure") else 0.95

    def too_long(self, value: TaskInput) -> bool:
        return text_of(value).startswith("long")

    def tokens(self, value: TaskInput) -> int:
        return 1

    @property
    def served_parameters(self) -> int:
        return 1

    def check_golden(self) -> float:
        return self.deviation

    def check_follows(self, serving: Any, *, removal_declared: bool) -> None:
        check_label_map(() if serving is None else serving.labels, self.labels, removal_declared=removal_declared)


def teacher_of(settings: TeacherSettings, **rest: Any) -> Teacher:
    """A teacher that names labels."""
    return Teacher(settings, AskForLabel(settings, LABELS), **rest)


def text_input(text: str) -> TaskInput:
    """A question of `classify`."""
    return TextInput(text=text)


def text_of(value: TaskInput) -> str:
    """Of a question of `classify`."""
    assert isinstance(value, TextInput)
    return value.text


class FakeSink:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Escalation] = []
        self.items: list[str] = []
        self.traces: list[str | None] = []
        self.failure: Exception | None = None
        self.closed = False
        self.healthy = True

    async def start(self) -> None:
        self.closed = False

    async def publish(self, event: Escalation, item_id: str, *, traceparent: str | None = None) -> None:
        assert not self.closed, "an event after the sink was closed"
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.events.append(event)
        self.items.append(item_id)
        self.traces.append(traceparent)

    async def close(self) -> None:
        self.closed = True


class FakeEndpoint:
    """An OpenAI-compatible endpoint behind a transport; answers `no` unless told otherwise."""

    def __init__(self) -> None:
        self.answer = "no"
        self.status = 200
        self.usage: dict[str, Any] | None = {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22}
        self.raw: bytes | None = None  # instead of a completion
        self.bodies: list[dict[str, Any]] = []
        self.hold: asyncio.Event | None = None
        self.failure: Exception | None = None
        self.running = 0
        self.most_running = 0

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(json.loads(request.content))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.hold is not None:
                await self.hold.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.running -= 1
        message = {"role": "assistant", "content": self.answer}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "big", "choices": [choice]}
        if self.usage is not None:
            body["usage"] = self.usage
        if self.raw is not None:
            return httpx2.Response(self.status, content=self.raw, headers={"Content-Type": "application/json"})
        return httpx2.Response(self.status, json=body)

    def client(self) -> openai.AsyncOpenAI:
        transport = httpx2.MockTransport(self)
        return openai.AsyncOpenAI(
            base_url=TEACHER.base_url,
            api_key="none",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=transport),
        )


@dataclass
class FakeStanding:
    """Where a lane stands."""

    champion: str | None = None
    previous: str | None = None
    pinned: bool = False


class FakeRegistry:
    """Versions by id, and the standing; a version that is missing or an exception fails to load."""

    def __init__(self) -> None:
        self.standing = FakeStanding()
        self.students: dict[str, FakeStudent | Exception] = {}
        self.loads: Counter[str] = Counter()
        self.failure: Exception | None = None
        self.size_bytes = 1000
        self.available_bytes = 1 << 40
        self.prepared = 0

    def move(self, champion: str | None, previous: str | None = None, *, pinned: bool = False) -> None:
        self.standing = FakeStanding(champion, previous, pinned)

    def read(self) -> FakeStanding:
        if self.failure is not None:
            raise self.failure
        return self.standing

    def load(self, version: str) -> FakeStudent:
        self.loads[version] += 1
        student = self.students[version]
        if isinstance(student, Exception):
            raise student
        return student

    def prepare(self) -> None:
        self.prepared += 1
        message = "no module named torch"
        raise ImportError(message)

    def versions(self) -> Versions:
        return Versions(
            standing=self.read,
            size_bytes=lambda _: self.size_bytes,
            load=self.load,
            available_bytes=lambda: self.available_bytes,
            prepare=self.prepare,
        )


class FakeLedger(MemoryLedger):
    """The ledger in memory, which never forgets here and which a test may fill, empty, take down or let hang."""

    def __init__(self, calls: int = 1_000_000) -> None:
        limits = BudgetSettings(calls_per_day=calls, audit_reserve_ratio=0.0)
        super().__init__(limits, now=lambda: 0.0)
        self.calls = calls
        self.down = False
        self.read_only = False  # a replica: it answers questions and takes no writes
        self.held = False  # it lost something, and grants nothing before all have told it
        self.hang: threading.Event | None = None

    @property
    def left(self) -> int:
        """Calls that nobody has leased or spent."""
        return self.calls - self._grant(0, 0).used_calls

    @left.setter
    def left(self, calls: int) -> None:
        """Somebody else spends the rest, or gives it back."""
        self._add(self._newest, "escalation", self.left - calls, 0)

    def lease(self, lease_id: str, kind: CallKind, *, calls: int, usd_micro: int, witness: Witness) -> Grant:
        self._check(writes=True)
        asked = 0 if self.held else calls
        return super().lease(lease_id, kind, calls=asked, usd_micro=usd_micro, witness=witness)

    def settle(self, lease_id: str, *, calls: int, usd_micro: int, witness: Witness) -> Grant:
        self._check(writes=True)
        return super().settle(lease_id, calls=calls, usd_micro=usd_micro, witness=witness)

    def used(self, witness: Witness) -> Grant:
        self._check()
        return super().used(witness)

    def _grant(self, calls: int, usd_micro: int) -> Grant:
        return replace(super()._grant(calls, usd_micro), held=self.held)

    def _check(self, *, writes: bool = False) -> None:
        if self.hang is not None:
            self.hang.wait(10)
        if self.down or (writes and self.read_only):
            message = "down"
            raise StoreUnavailableError(message)


@dataclass
class World:
    """One gateway with all its fakes."""

    directory: Path
    settings: GatewaySettings = field(default_factory=lambda: GatewaySettings(follow_s=0.02, batch_wait_s=0.001))
    endpoint: FakeEndpoint = field(default_factory=FakeEndpoint)
    sink: FakeSink = field(default_factory=FakeSink)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    ledger: FakeLedger = field(default_factory=FakeLedger)
    beats: list[Heartbeat] = field(default_factory=list)
    redact: Callable[[str], str] = lambda text: text.replace("4111", "<CARD:0>")
    noting: Redact | None = None  # instead, for who wants the values back
    audit_ratio: float = 0.0
    audit_key: bytes = b"a" * 32
    training_permitted: bool = True
    changes: Mapping[str, Any] = field(default_factory=dict)  # of other lane settings
    api_keys: tuple[str, ...] = ()
    seed: int = 1
    answers: Shared | None = None  # under Idempotency-Keys
    books: Write = field(default=lambda _lane, _batch: None)
    tally_path: Path | None = None
    prometheus: CollectorRegistry = field(default_factory=CollectorRegistry)
    tracer: Tracer = OFF

    def serve(self, version: str = "a", student: FakeStudent | None = None) -> FakeStudent:
        """Make a version the champion before the start."""
        made = student or FakeStudent()
        self.registry.students[version] = made
        self.registry.move(version)
        return made

    def parts(self, lane: Lane = LANE) -> LaneParts:
        lane_settings = LaneSettings(
            lane=lane,
            task="classify",
            terms=LaneTerms(labels=LABELS),
            training_permitted=self.training_permitted,
            teacher=TEACHER,
            budget=BudgetSettings(calls_per_day=self.ledger.calls),
            audit_ratio=self.audit_ratio,
            api_keys=self.api_keys,
        )
        return LaneParts(
            settings=replace(lane_settings, **self.changes),
            lane_key=b"k" * 32,
            redact=self.noting or (lambda text: (self.redact(text), {})),
            subject_key=b"s" * 32,
            audit_key=self.audit_key,
            versions=self.registry.versions(),
            ledger=self.ledger,
            answers=self.answers,
            teacher_client=self.endpoint.client(),
            tally_path=self.tally_path,
        )

    def services(self) -> Services:
        return Services(
            lanes=[self.parts()],
            sink=self.sink,
            announce=lambda _, beat: self.beats.append(beat),
            swaps_path=self.directory / "swaps.jsonl",
            metrics=ServeMetrics.create(self.prometheus),
            rng=Random(self.seed),
            write=self.books,
            tracer=self.tracer,
        )

    def swaps(self) -> list[dict[str, Any]]:
        path = self.directory / "swaps.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def metric(self, name: str, **labels: str) -> float:
        return self.prometheus.get_sample_value(name, {"tenant": "acme", "use_case": "intent", **labels}) or 0.0

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1") -> AsyncIterator[tuple[httpx.AsyncClient, Gateway]]:
        """The gateway behind an in-process transport, ready."""
        app: Starlette = build_app(self.services(), self.settings)
        gateway: Gateway = app.state.gateway
        transport = httpx.ASGITransport(app=app, client=(host, 1))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
        ):
            await eventually(gateway.ready)
            yield client, gateway


async def eventually(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - a condition of another thread has no event
            await asyncio.sleep(0.005)


BROKEN = BrokenChainError("move 3 does not name the hash of move 2")
