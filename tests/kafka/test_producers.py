"""Other producers on a real Kafka: what they send is taken, or counted and listed with its reason; and replayed."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import pytest
from kafka import KafkaProducer
from typer.testing import CliRunner

from ops.checks.lag import lags_of
from ops.cli.app import app
from ops.letters.reading import list_letters
from tests.kafka.broker import Broker
from tests.kafka.fixtures import standing_on_kafka
from tests.ops.children import REPOSITORY
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand, until


@pytest.fixture
def stand(tmp_path: Path, redis_url: str, kafka_broker: Broker) -> Iterator[Stand]:
    with standing_on_kafka(tmp_path, redis_url, kafka_broker, labels='["refund", "delivery"]') as made:
        yield made


def event(stand: Stand, text: str, **changed: Any) -> dict[str, Any]:
    """What a producer that has read the documentation sends, but for what is changed; None: left out."""
    fields = {
        "task": "classify",
        "schema": 1,
        "id": str(uuid5(NAMESPACE_DNS, text)),
        "time": datetime.now(UTC).isoformat(),
        "use_case": LANE.use_case,
        "tenant": LANE.tenant,
        "student": None,
        "escalation": {"reason": "cold", "threshold": None, "propensity": 1.0},
        "input": {"text": text},
        "teacher": {"model": stand.model, "prompt_version": stand.prompt_version, "label": "refund"},
        **changed,
    }
    return {name: value for name, value in fields.items() if value != "left out"}


def coded(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def call(stand: Stand, *arguments: str) -> Any:
    found = CliRunner().invoke(app, [*arguments, "-c", str(stand.path), "-o", "json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def taken(stand: Stand) -> bool:
    return not any(one.lag_records for one in lags_of(stand.site, [LANE.use_case]))


def test_whatever_they_send_is_taken_or_counted_and_listed(stand: Stand, kafka_broker: Broker) -> None:
    teacher = {"model": stand.model, "prompt_version": stand.prompt_version, "label": "refund"}
    good = {f"codec {codec}": codec for codec in (None, "gzip", "snappy", "lz4", "zstd")}
    for text, codec in good.items():
        with closing(KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, compression_type=codec)) as producer:
            producer.send(TOPIC, key=b"k", value=coded(event(stand, text))).get(30)
    sound = coded(event(stand, "sound"))
    taken_too: list[dict[str, Any]] = [
        {"key": None, "value": coded(event(stand, "no key"))},
        {"key": b"\xff\x00", "value": coded(event(stand, "an odd key"))},
        {"key": b"k", "value": coded(event(stand, "odd headers")), "headers": [("traceparent", b"\xff"), ("", b"")]},
        {"key": b"k", "value": coded(event(stand, "no stamp")), "timestamp_ms": 0},
        {"key": b"k", "value": coded(event(stand, "spelled", teacher={**teacher, "label": " Refund "}))},
        {"key": b"k", "value": coded(event(stand, "other fields", colour="red"))},
    ]
    another = {"key": b"k", "value": coded(event(stand, "other prompt", teacher={**teacher, "prompt_version": "p9"}))}
    dead: dict[str, list[bytes | None]] = {
        "undecodable": [
            None,
            b"",
            b"<event/>",
            b"\xef\xbb\xbf" + sound,
            sound.decode().encode("utf-16"),
            b"\0\0\0\0\1" + sound,
            b"[1]",
        ],
        "wrong_shape": [
            coded(event(stand, "no id", id="left out")),
            coded(event(stand, "no input", input="left out")),
            coded(event(stand, "naive", time="2026-11-01T00:00:00")),
            coded(event(stand, "never", escalation={"reason": "cold", "threshold": None, "propensity": 0})),
        ],
        "unknown_schema": [coded(event(stand, "tomorrow's", schema=2))],
        "unknown_lane": [coded(event(stand, "another's", tenant="nobody"))],
        "wrong_use_case": [coded(event(stand, "another topic's", use_case="sales"))],
        "off_list": [coded(event(stand, "cross", teacher={**teacher, "label": "angry customer"}))],
        "in_future": [
            coded(event(stand, "2099", time="2099-01-01T00:00:00Z")),
            coded(event(stand, "the end", time="9999-12-31T23:59:59-05:00")),
        ],
        "too_old": [coded(event(stand, "the beginning", time="0001-01-01T00:00:00+01:00"))],
        "oversized": [coded(event(stand, "x" * (1 << 20)))],
    }
    big = {"max_request_size": 4 << 20, "compression_type": "zstd"}  # the limit of the topic is on what is packed
    with (
        stand.ingesting() as ingest,
        closing(KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, **big)) as producer,
    ):
        for record in [*taken_too, another]:
            producer.send(TOPIC, **record).get(30)
        for values in dead.values():
            for value in values:
                producer.send(TOPIC, key=b"k", value=value).get(30)
        until(lambda: taken(stand) and ingest.ready)
        assert dict(stand.buffer.dead(LANE.use_case)) == {reason: len(values) for reason, values in dead.items()}
        assert stand.counters.counted == len(good) + len(taken_too) + 1
        until(lambda: stand.metric("dead_letters_open", reason="off_list") == 1)
        for task in ("translate", "sort"):  # for a newer release: they wait for it, and nothing after them is lost
            value = coded(event(stand, "later", task=task, input={"query": "q", "documents": ["d"]}))
            producer.send(TOPIC, key=b"k", value=value).get(30)
        until(lambda: stand.metric("ingest_stopped_partitions") == 1)
        assert "upgrade ingest" in " ".join(ingest.troubles)
    assert stand.metric("events_unusable_total", tenant=LANE.tenant, reason="other_prompt") == 1
    assert stand.metric("events_unusable_total", tenant=LANE.tenant, reason="off_list") == 1
    assert stand.metric("events_unusable_total", tenant="-", reason="undecodable") == len(dead["undecodable"])
    assert stand.metric("events_unusable_total", tenant="-", reason="unknown_lane") == 1
    listed = list_letters(stand.site, [LANE.use_case], 100)
    assert listed.by_reason == {reason: len(values) for reason, values in dead.items()}
    assert stand.verify().ok
    (letter,) = [one for one in listed.letters if one.reason == "off_list"]
    assert "angry customer" in call(stand, "dlq", "show", letter.id)["content"]


def test_a_replay_on_kafka_happens_once(stand: Stand, kafka_broker: Broker) -> None:
    teacher = {"model": stand.model, "prompt_version": stand.prompt_version, "label": "angry customer"}
    with closing(KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)) as producer:
        producer.send(TOPIC, key=b"k", value=coded(event(stand, "I am cross", teacher=teacher))).get(30)
    with stand.ingesting():
        until(lambda: dict(stand.buffer.open_dead(LANE.use_case)) == {"off_list": 1})
    text = stand.path.read_text("utf-8")
    stand.path.write_text(text.replace('"delivery"]', '"delivery", "angry customer"]'), "utf-8")
    (done,) = call(stand, "dlq", "replay", "--all", "-r", "the label was added")
    assert [letter["done"] for letter in done["letters"]] == [True]
    again = CliRunner().invoke(app, ["dlq", "replay", "--all", "-r", "again", "-c", str(stand.path)])
    assert again.exit_code == 4
    assert sum(one.end for one in lags_of(stand.site, [LANE.use_case])) == 2
    assert dict(stand.buffer.open_dead(LANE.use_case)) == {"off_list": 0}


def test_the_example_of_the_documentation_is_counted(stand: Stand, kafka_broker: Broker) -> None:
    page = (REPOSITORY / "docs" / "how-to" / "other-producers.md").read_text("utf-8")
    example, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)  # the second is of LiteLLM
    (wanted,) = call(stand, "producers")
    assert (wanted["topic"], wanted["model"]) == (TOPIC, "gpt-4o-mini")
    for placeholder, value in {
        "localhost:9092": kafka_broker.bootstrap,
        "PROMPT_VERSION": wanted["prompt_version"],
    }.items():
        assert example.count(placeholder) == 1
        example = example.replace(placeholder, value)
    names: dict[str, Any] = {}
    exec(compile(example, "other-producers.md", "exec"), names)  # noqa: S102 - it is what is documented
    with closing(names["producer"]), stand.ingesting():
        until(lambda: stand.counters.counted == 2)
    assert dict(stand.buffer.dead(LANE.use_case)) == {}
    assert not stand.metric("events_unusable_total", tenant=LANE.tenant, reason="other_prompt")
    (tally,) = {json.dumps(item.tally) for item in stand.items().values() if "parcel" in str(item.input)}
    assert json.loads(tally) == {f"{wanted['model']}@{wanted['prompt_version']}": {"delivery": 1}}
