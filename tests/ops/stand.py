"""A real ingest on an installation's own parts, in threads of the test: what it reads, keeps and says."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
from prometheus_client import CollectorRegistry

from ops.answers.reading import Reading
from ops.checks.verify import verify_site
from ops.open_log import ensure_topics, open_appender
from ops.reports import VerifyReport
from ops.site import Site
from ops.wiring import ingest as wiring
from store.buffer.item import Item
from store.buffer.ledger import Counters
from store.buffer.redis import RedisBuffer
from store.event import encode
from store.tracing.spans import OFF, Tracer
from stream.ingest import Ingest
from stream.log import topic_of
from stream.metrics import IngestMetrics
from tests.contracts.escalations import escalation
from tests.ops.sites import LANE, make_site, open_site

DEADLINE_S = 60.0
TOPIC = topic_of(LANE.use_case)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; what it raises while it waits is part of the wait."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            if condition():
                return
            why: object = condition
        except Exception as error:  # noqa: BLE001 - Redis may be away meanwhile
            why = error
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


class Stand:
    """An installation with its log, its buffer, and an ingest that can be started and stopped."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.site: Site = open_site(path)
        self.client = stack.enter_context(self.site.redis_client())
        ensure_topics(self.site, self.client)
        self.appender = stack.enter_context(closing(open_appender(self.site, self.client)))
        self.buffer: RedisBuffer = self.site.buffer(self.client)
        self.registry = CollectorRegistry()
        self.metrics = IngestMetrics.create(self.registry)
        section = self.site.lane(str(LANE))
        self.model, self.prompt_version = section.teacher.model, Reading.of(section).version()
        self.sent = 0
        self.ingests: list[Ingest] = []
        self.tracer: Tracer = OFF

    def send(self, count: int = 1, *, questions: int = 7, label: str = "refund") -> None:
        """Publish events and wait until the log has taken each, however long that takes."""
        for _ in range(count):
            number = self.sent
            self.sent += 1
            question = f"question {number % questions}"
            reason: Any = "audit" if number % 5 == 0 else "low_confidence"
            event = escalation(question, number=number, label=label, reason=reason)
            teacher = msgspec.structs.replace(event.teacher, model=self.model, prompt_version=self.prompt_version)
            value = encode(msgspec.structs.replace(event, teacher=teacher))
            until(lambda: self.appender.append(TOPIC, key=question.encode(), value=value).result(10) is None)  # noqa: B023

    @contextmanager
    def ingesting(self) -> Iterator[Ingest]:
        """Ingest at work."""
        owner = f"stand-{len(self.ingests)}"
        ingest = wiring.ingest(self.site, self.client, self.appender, LANE.use_case, owner, self.metrics, self.tracer)
        ingest._reporter._every_s = 0.2
        self.ingests.append(ingest)
        stop, failures = threading.Event(), list[Exception]()

        def run() -> None:
            try:
                ingest.run(stop)
            except Exception as error:  # noqa: BLE001 - raised again below
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield ingest
        finally:
            stop.set()
            thread.join(DEADLINE_S)
        assert not thread.is_alive()
        if failures:
            raise failures[0]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"understudy_{name}", {"use_case": LANE.use_case, **labels})

    @property
    def counters(self) -> Counters:
        return self.buffer.counters(LANE)

    def items(self) -> dict[str, Item]:
        return {str(getattr(item.input, "text", "")): item for item in self.buffer.items(LANE)}

    def verify(self) -> VerifyReport:
        return verify_site(self.site, [LANE])

    def flip(self, text: str) -> str:
        """Change one byte of a stored item; its id."""
        item = self.items()[text]
        name = f"{{{LANE.use_case}}}:{LANE.tenant}:item:{item.item_id}"
        value = cast("bytes", self.client.get(name))
        self.client.setrange(name, 30, bytes([value[30] ^ 1]))
        return item.item_id


@contextmanager
def standing(folder: Path, redis_url: str, **settings: str) -> Iterator[Stand]:
    """A stand on a Redis of one's own."""
    with ExitStack() as stack:
        yield Stand(make_site(folder / "site", url=f'"{redis_url}"', **settings), stack)
