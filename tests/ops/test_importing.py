"""An import through the real log, ingest and buffer, and what `verify` and `dlq list` then say."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from ops.checks.verify import verify_site
from ops.cli.app import app
from ops.imports import importing
from ops.letters.reading import list_letters
from ops.open_log import ensure_topics, open_appender
from ops.readers.rows import Reader
from ops.readers.tasks import open_reader
from ops.site import Site
from ops.wiring import ingest as wiring
from store.control import Control
from store.event import encode, wall_clock_s
from stream.log import topic_of
from stream.metrics import IngestMetrics
from tests.contracts.escalations import escalation
from tests.ops.children import until
from tests.ops.sites import LANE, make_site, open_site


def reader_of(log: Path) -> Reader:
    """The log, read for the lane."""
    return open_reader("classify", log, {}, labels=("refund", "delivery", "other"))


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Path:
    return make_site(tmp_path / "site", url=f'"{redis_url}"')


@contextmanager
def ingesting(site: Site, client: redis.Redis) -> Iterator[None]:
    """Real ingest at work, on a thread."""
    stop = threading.Event()
    ensure_topics(site, client)
    with closing(open_appender(site, client)) as appender:
        metrics = IngestMetrics.create(CollectorRegistry())
        loop = wiring.ingest(site, client, appender, LANE.use_case, "test", metrics)
        thread = threading.Thread(target=loop.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)


def write_log(path: Path, rows: int) -> Path:
    lines = [{"text": f"where is parcel {n % 40}?", "label": ["refund", "delivery"][n % 2]} for n in range(rows)]
    lines += [{"text": "mail joe@example.org", "label": "other"}, {"text": "no", "label": "unknown"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_an_import_is_ingested_a_cycle_is_asked_for_and_a_second_import_changes_nothing(
    settings: Path, redis_client: redis.Redis, tmp_path: Path
) -> None:
    site = open_site(settings)
    log, section = write_log(tmp_path / "log.jsonl", 100), site.settings.lanes[0]
    with ingesting(site, redis_client):
        seen: list[int] = []
        report = importing.import_file(site, section, log, reader_of(log), seen=lambda: seen.append(1))
        assert (report.published, report.skipped, report.ingested, report.cycle_asked) == (101, 1, True, True)
        assert len(seen) == 102
        first = site.buffer(redis_client).counters(LANE)
        assert (first.counted, first.repeats, first.new_items) == (101, 0, 41)
        again = importing.import_file(site, section, log, reader_of(log), seen=lambda: None)
        assert again.ingested
    second = site.buffer(redis_client).counters(LANE)
    assert (second.counted, second.repeats, second.new_items) == (101, 101, 41)
    request = Control(redis_client).next_cycle_request(LANE)
    assert request is not None
    assert (request.kind, request.why) == ("head", "import of log.jsonl")
    texts = [getattr(item.input, "text", "") for item in site.buffer(redis_client).items(LANE)]
    assert not any("joe" in text for text in texts)
    checked = verify_site(site, [LANE])
    assert checked.ok, checked
    assert (checked.records, checked.expected, checked.found) == (202, 41, 41)


def test_rows_are_out_of_quarantine_at_once(settings: Path, redis_client: redis.Redis, tmp_path: Path) -> None:
    site = open_site(settings)
    with ingesting(site, redis_client):
        log = write_log(tmp_path / "log.jsonl", 5)
        importing.import_file(site, site.settings.lanes[0], log, reader_of(log), seen=lambda: None)
    newest = max(item.last_asked_s for item in site.buffer(redis_client).items(LANE))
    assert newest < wall_clock_s() - site.settings.trainer.quarantine_s


def test_without_ingest_the_rows_are_in_the_log_and_no_cycle_is_asked_for(
    settings: Path, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_STALLED_S", 0.3)
    log = write_log(tmp_path / "log.jsonl", 5)
    result = CliRunner().invoke(app, ["import", str(log), "-c", str(settings), "-o", "json"])
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    assert (report["published"], report["ingested"], report["cycle_asked"]) == (6, False, False)
    assert Control(redis_client).next_cycle_request(LANE) is None


def test_every_kind_of_dead_letter_is_counted_alike_by_ingest_and_oracle_and_listed(
    settings: Path, redis_client: redis.Redis
) -> None:
    site = open_site(settings)
    topic = topic_of(LANE.use_case)
    good = encode(escalation("a question"))
    fields = json.loads(good)
    rank = {"query": "q", "documents": ["d"]}
    values = [
        good,
        b"not json",
        good.replace(b'"schema":1', b'"schema":2'),
        good.replace(b'"tenant":"acme"', b'"tenant":"nobody"'),
        good.replace(b'"use_case":"support"', b'"use_case":"other"'),
        good.replace(b'"propensity":1.0', b'"propensity":7.0'),
        json.dumps({**fields, "input": rank}).encode(),
        b"[" * ((1 << 20) + 1),
        encode(escalation("not to be learned from", number=1, eligible=False)),
        encode(escalation("old", number=2, time_s=1_000_000_000.0)),
        encode(escalation("off", number=3, label="angry customer")),
        encode(escalation("spelled", number=4, label="Refund ")),
        encode(escalation("far ahead", number=5, time_s=1_700_000_000.0 + 2 * 86_400)),
        encode(escalation("a clock that goes fast", number=6, time_s=1_700_000_000.0 + 3600)),
    ]
    with ingesting(site, redis_client), closing(open_appender(site, redis_client)) as appender:
        for value in values:
            appender.append(topic, key=b"one partition", value=value, timestamp_ms=1_700_000_000_000).result(10)
        buffer = site.buffer(redis_client)
        until(lambda: max(int(at) for at in buffer.positions(LANE.use_case).values()) == len(values))
    letters = list_letters(site, site.use_cases, 100)
    expected = {
        "undecodable": 1,
        "unknown_schema": 1,
        "unknown_lane": 1,
        "wrong_use_case": 1,
        "wrong_shape": 2,
        "oversized": 1,
        "too_old": 1,
        "off_list": 1,
        "in_future": 1,
    }
    assert letters.by_reason == expected == dict(buffer.dead(LANE.use_case))
    assert [letter.offset for letter in letters.letters] == [1, 2, 3, 4, 5, 6, 7, 9, 10, 12]
    report = verify_site(site, [LANE])
    assert report.ok, report
    assert (report.expected, report.records) == (3, len(values))
    assert {label for item in buffer.items(LANE) for tally in item.tally.values() for label in tally} == {"refund"}
