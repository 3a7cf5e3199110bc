"""An ingest that is older than a gateway, on real Kafka: it waits aloud at what it does not know, and loses nothing."""

import json
from contextlib import closing
from random import Random
from typing import Any

import httpx
import pytest
from kafka import KafkaProducer
from typer.testing import CliRunner

from ops.cli.app import app
from ops.state.run_files import read_run_file
from store.event import decode, encode
from tests.contracts.escalations import escalation
from tests.faults.test_fail_points import process, run
from tests.kafka.broker import Broker
from tests.ops.children import until
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand

SLOW_S = 240.0
BEFORE, BEHIND, ELSEWHERE = 3, 4, 5


def status(stand: Stand) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CliRunner().invoke(app, ["status", "-c", str(stand.path), "-o", "json"]).stdout)
    return found


def scraped(stand: Stand, name: str) -> float | None:
    """A metric of the ingest that runs, as Prometheus would read it."""
    found = read_run_file(stand.site.run_directory, "ingest")
    if found is None or found.admin_port is None:
        return None
    text = httpx.get(f"http://127.0.0.1:{found.admin_port}/metrics", timeout=30.0).text
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)), None)


def test_a_task_to_come_is_waited_for_aloud_and_what_comes_behind_it_is_not_lost(
    stand: Stand, kafka_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(100))

    def event() -> bytes:
        number = next(numbers)
        return encode(escalation(f"question {number} {Random(number).random()}", number=number))

    to_come = event().replace(b'"classify"', b'"translate"', 1)
    with closing(KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)) as producer:
        for value in [*(event() for _ in range(BEFORE)), to_come, *(event() for _ in range(BEHIND))]:
            producer.send(TOPIC, value=value, partition=0).get(30)
        for _ in range(ELSEWHERE):
            producer.send(TOPIC, value=event(), partition=1).get(30)
        with process(*run("ingest", stand)):
            until(lambda: scraped(stand, "understudy_ingest_stopped_partitions{") == 1, seconds=SLOW_S)
            until(lambda: stand.counters.counted == BEFORE + ELSEWHERE, seconds=SLOW_S)
            producer.send(TOPIC, value=event(), partition=1).get(30)
            until(lambda: stand.counters.counted == BEFORE + ELSEWHERE + 1, seconds=SLOW_S)
            (ingest,) = (one for one in status(stand)["processes"] if one["name"] == "ingest")
    assert not ingest["ready"]
    why = " ".join(ingest["why"])
    assert f"partition 0 stands still: offset {BEFORE} is an event of task 'translate'" in why
    assert "upgrade ingest" in why
    assert stand.buffer.dead(LANE.use_case) == {}
    assert stand.verify().ok
    monkeypatch.setattr("stream.ingest.decode", lambda value: decode(value.replace(b"translate", b"classify")))
    with stand.ingesting() as upgraded:
        until(lambda: stand.counters.counted == BEFORE + 1 + BEHIND + ELSEWHERE + 1, seconds=SLOW_S)
        until(lambda: upgraded.ready, seconds=SLOW_S)
    assert stand.buffer.dead(LANE.use_case) == {}
