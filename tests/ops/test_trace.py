"""One request's life, for every task: on a real ingest, an embedded log, and versions whose snapshots are real."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import pytest
from typer.testing import CliRunner

from ops.answers.kept import LaneItems
from ops.cli.app import app
from ops.exits import REFUSED
from ops.kept.export import drawn_now
from ops.open_log import open_history
from ops.trace.log import search
from ops.trace.names import name_of
from store.buffer.ledger import LogSlot
from store.event import EscalationCause, StudentOpinion, encode, new_event_id, utc, wall_clock_s
from store.registry.manifest import SNAPSHOT_NAME, SnapshotRecord, Verdict
from store.registry.signing import SigningKey
from store.secrets import DataSecret, unit_hash
from stream.log import Record
from tests.contracts.escalations import START_S
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand, until
from tests.ops.task_lanes import EVENTS, call, item_of, make_task_site, run, send
from tests.store.drafts import make_draft, make_manifest

CANARY: Final = "ada@example.com"
SAID: Final[dict[str, Any]] = {"classify": "refund", "rank": {"scores": [0.5, 0.9, 0.1]}, "chat": "call the bank"}
OUTPUT: Final = {"classify": "refund", "rank": "[0,1,2]", "chat": "call the bank"}


@pytest.fixture(params=["classify", "rank", "chat"])
def stand(tmp_path: Path, redis_url: str, request: pytest.FixtureRequest) -> Iterator[Stand]:
    """A lane of each task with a real ingest; nothing was asked yet."""
    with ExitStack() as stack:
        yield Stand(make_task_site(tmp_path / "site", request.param, redis_url), stack)


@pytest.fixture
def classify(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    with ExitStack() as stack:
        yield Stand(make_task_site(tmp_path / "site", "classify", redis_url), stack)


def publish_events(stand: Stand, *events: Any, headers: tuple[tuple[str, bytes], ...] = ()) -> None:
    """Put events on the topic, and let ingest take them."""
    before = sum((stand.counters.counted, stand.counters.repeats, stand.counters.ineligible))
    buried = sum(stand.buffer.dead(LANE.use_case).values())
    for event in events:
        stand.appender.append(TOPIC, key=b"k", value=encode(event), headers=headers).result(30)
        stand.sent += 1
    with stand.ingesting():
        until(
            lambda: (
                sum((stand.counters.counted, stand.counters.repeats, stand.counters.ineligible))
                + sum(stand.buffer.dead(LANE.use_case).values())
                == before + buried + len(events)
            )
        )


def event_of(stand: Stand, question: int, number: int, **changes: Any) -> Any:
    return msgspec.structs.replace(EVENTS[stand.site.lane(None).task](stand, question, number), **changes)


def audit_of(stand: Stand, question: int, number: int) -> Any:
    output = OUTPUT[stand.site.lane(None).task]
    return event_of(
        stand,
        question,
        number,
        student=StudentOpinion(version="v1", output=output, confidence=0.93),
        escalation=EscalationCause(reason="audit", threshold=0.8, propensity=0.05),
    )


def freeze(stand: Stand, *, head: bytes, verdict: str, promoted: bool) -> str:
    """A version that was made from what the buffer holds now."""
    site, section = stand.site, stand.site.lane(None)
    items = LaneItems.of(site, stand.client, section, wall_clock_s())
    drawn = drawn_now(site, replace(items, kept=list(items.kept)), wall_clock_s())
    positions = stand.buffer.positions(LANE.use_case)
    record: SnapshotRecord = msgspec.structs.replace(
        drawn.record, positions={f"{slot.uuid}/{slot.partition}": at for slot, at in positions.items()}
    )
    draft = make_draft(stand.path.parent / f"draft-{head.hex()}", head=head)
    (draft / SNAPSHOT_NAME).write_bytes(drawn.content)
    outcome: Any = verdict
    refusals = [] if verdict == "pass" else ["student agreement fell"]
    judged = Verdict(
        outcome=outcome, phase="growth", refusals=refusals, rows_judged=9, student_agreement=0.9, difference=None,
        lower=None, upper=None, delta=0.05, rows_needed=0, slices=[],
    )  # fmt: skip
    key = SigningKey.load(site.settings.keys.trainer)
    manifest = make_manifest(lane=LANE, snapshot=record, verdict=judged, created_s=1_700_000_000.0 + len(head))
    version = site.registry.versions(LANE).publish(draft, manifest, key)
    if promoted:
        site.registry.moves(LANE).append(
            "promote", version=version, who=key.name, why="passed", key=key, now_s=1_700_000_100.0 + len(head)
        )
    return version


def test_a_request_is_told_from_the_decision_to_the_versions_that_learned_from_it(stand: Stand) -> None:
    task = stand.site.lane(None).task
    send(stand, 0, 1)
    early = freeze(stand, head=b"a", verdict="fail", promoted=False)
    audit = audit_of(stand, 2, 50)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    publish_events(stand, audit, headers=(("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01".encode()),))
    learned = freeze(stand, head=b"bb", verdict="pass", promoted=True)
    later = freeze(stand, head=b"ccc", verdict="fail", promoted=False)
    item = item_of(stand, 2)

    found = run(stand, "trace", audit.id)
    event = found["event"]
    assert (found["named"], found["id"], event["lane"], event["task"]) == ("event", audit.id, str(LANE), task)
    assert (event["reason"], event["propensity"], event["threshold"]) == ("audit", 0.05, 0.8)
    salt = stand.site.secret.audit_key(LANE).hex()
    assert event["draw"] == unit_hash(salt, f"{audit.id}/{item.item_id}"), "as the gateway would draw it"
    assert event["trace_id"] == trace_id
    assert (event["student"]["version"], event["student"]["confidence"], event["student"]["agreed"]) == (
        "v1",
        0.93,
        True,
    )
    assert (event["teacher"]["model"], event["teacher"]["answer"]) == (stand.model, SAID[task])
    (record,) = found["records"]
    assert (record["topic"], record["fate"], record["told"]) == (TOPIC, "applied", "applied")
    assert (found["item"]["id"], found["item"]["holds_event"], found["item"]["audits"]) == (item.item_id, "counted", 1)
    split = found["item"]["next"]["split"]
    use = {"train": "trained", "calibrate": "calibrated", "judge": "judged"}[split]
    told = {one["id"]: one for one in found["versions"]}
    assert [told[one]["use"] for one in (early, learned, later)] == ["frozen_before", use, use]
    assert [told[one]["with_event"] for one in (early, learned, later)] == [False, True, True]
    assert [bool(told[one]["served"]) for one in (early, learned, later)] == [False, True, False]
    assert (told[learned]["served"][0]["until"], told[later]["verdict"]) == (None, "fail")
    assert told[later]["refusals"] == ["student agreement fell"]
    assert found["letters"] == found["notes"] == []

    prefix = f"chatcmpl-{audit.id}"
    assert (run(stand, "trace", audit.id[:20])["id"], run(stand, "trace", prefix)["named"]) == (audit.id, "response")
    by_item = run(stand, "trace", item.item_id[:12])
    assert (by_item["named"], by_item["event"], by_item["item"]["events"]) == ("item", None, [audit.id])
    assert [one["use"] for one in by_item["versions"]] == ["left_out", use, use], "its place in the log is not known"

    said = CliRunner().invoke(app, ["trace", audit.id, "-c", str(stand.path)], env={"COLUMNS": "160"})
    assert said.exit_code == 0, (said.output, said.exception)
    for wanted in (audit.id, "audit: the student answered", trace_id, item.item_id, learned, "was refused", "applied"):
        assert wanted in said.stdout, wanted


def test_what_a_person_dropped_or_corrected_and_what_came_twice_is_told(stand: Stand) -> None:
    first, again = event_of(stand, 1, 60), event_of(stand, 1, 61)
    publish_events(stand, first, again, first)
    item = item_of(stand, 1)
    found = run(stand, "trace", first.id)
    assert [one["told"] for one in found["records"]] == ["applied", "applied: a repeat, which the id tells"]
    assert (found["item"]["kept"]["asked"], found["item"]["events"]) == (2, [first.id, again.id])
    run(stand, "answers", "drop", item.item_id, "--reason", "a slip")
    dropped = run(stand, "trace", again.id)["item"]
    assert (dropped["kept"]["state"], dropped["ruling"]["kind"], dropped["ruling"]["why"]) == (
        "dropped",
        "drop",
        "a slip",
    )
    assert dropped["next"] == {
        "split": None, "cluster": None, "linked": [], "why": "in none: a person has dropped it",
    }  # fmt: skip
    stand.client.flushdb()  # log and buffer are gone
    gone = call(stand, "trace", first.id)
    assert gone.exit_code == REFUSED
    assert "nothing is known of" in gone.stderr


def test_an_event_that_may_not_be_learned_from_has_no_item(classify: Stand) -> None:
    stand = classify
    forbidden = event_of(stand, 3, 70, eligible=False)
    publish_events(stand, forbidden)
    found = run(stand, "trace", forbidden.id)
    assert (found["item"]["kept"], found["item"]["told"]) == (None, "none was made: nobody may learn from this event")
    assert found["event"]["eligible"] is False


def test_a_dead_letter_is_told_with_why_and_with_its_replay_and_nothing_of_its_texts(classify: Stand) -> None:
    stand, label = classify, "angry customer"
    event = event_of(stand, 1, 80)
    teacher = msgspec.structs.replace(event.teacher, label=label)
    event = msgspec.structs.replace(
        event,
        teacher=teacher,
        student=StudentOpinion(version="v1", output=f"what {CANARY} would say", confidence=0.4),
        input=msgspec.structs.replace(event.input, text=f"I am cross, {CANARY}"),
    )
    publish_events(stand, event)
    found = run(stand, "trace", event.id)
    (letter,) = found["letters"]
    assert (found["records"][0]["fate"], letter["letter"]["reason"], letter["letter"]["state"]) == (
        "dead", "off_list", "open",
    )  # fmt: skip
    assert (found["event"]["input"], found["event"]["teacher"]["answer"], found["item"]) == (None, None, None)
    assert f"`understudy dlq show {letter['letter']['id']}`" in found["notes"][0]
    assert CANARY not in json.dumps(found)
    assert "cross" not in json.dumps(found)

    labels = list(stand.site.lane(None).labels)
    text = stand.path.read_text("utf-8")
    stand.path.write_text(text.replace(json.dumps(labels), json.dumps([*labels, label])), "utf-8")
    assert "would be kept" in run(stand, "trace", event.id)["notes"][0]
    run(stand, "dlq", "replay", "--all", "-r", "the label was added")
    with ExitStack() as stack:
        again = Stand(stand.path, stack)
        stack.enter_context(again.ingesting())
        until(lambda: again.counters.counted == 1)
    found = run(stand, "trace", event.id)
    assert [one["fate"] for one in found["records"]] == ["dead", "applied"]
    assert found["records"][1]["replay_of"] == letter["letter"]["id"]
    assert (found["letters"][0]["why"], found["item"]["holds_event"]) == ("the label was added", "counted")
    assert found["event"]["redacted"] == {"email": 1}
    assert "<EMAIL:" in found["event"]["input"]["text"]
    assert CANARY not in json.dumps(found)
    plain = CliRunner().invoke(app, ["trace", event.id, "-c", str(stand.path)])
    assert CANARY not in plain.stdout
    assert "dead letter" in plain.stdout


def test_a_record_that_died_of_its_date_is_told_without_its_texts(stand: Stand) -> None:
    event = event_of(stand, 4, 85)
    event = msgspec.structs.replace(event, id=new_event_id(START_S, Random(85)), time=utc(wall_clock_s() + 9e5))
    publish_events(stand, event)
    found = run(stand, "trace", event.id)
    (letter,) = found["letters"]
    assert (letter["letter"]["reason"], found["records"][0]["fate"], found["item"]) == ("in_future", "dead", None)
    assert found["event"]["reason"] == event.escalation.reason
    assert "question 4" not in json.dumps(found)
    for key in stand.client.scan_iter("log:{understudy.support}:*"):
        if stand.client.type(key) == b"stream":
            stand.client.xtrim(key, maxlen=0)  # the letter is all that is left
    later = run(stand, "trace", event.id)
    assert (later["records"], later["event"]["id"], later["letters"]) == ([], event.id, found["letters"])
    assert "the log no longer has the record" in later["notes"][0]


def test_linked_questions_share_a_split_and_are_named(classify: Stand) -> None:
    stand = classify
    texts = ["how do I reset the password of my account today", "how do I reset the pasword of my account today"]
    events = [
        event_of(stand, number, 90 + number, input=type(event_of(stand, 0, 0).input)(text=text))
        for number, text in enumerate(texts)
    ]
    publish_events(stand, *events)
    version = freeze(stand, head=b"a", verdict="pass", promoted=True)
    one, other = (run(stand, "trace", event.id) for event in events)
    assert one["item"]["next"]["linked"] == [other["item"]["id"]]
    assert one["item"]["next"]["split"] == other["item"]["next"]["split"]
    (told,) = one["versions"]
    assert (told["id"], told["linked"]) == (version, [other["item"]["id"]])


def test_ids_that_are_none_or_mean_more_than_one_thing_are_refused_with_what_to_do(classify: Stand) -> None:
    stand = classify
    first, second = event_of(stand, 1, 100), event_of(stand, 2, 101)
    publish_events(stand, first, second)
    for wrong in ("no id", "xyz", first.id + "00", "12-34", ""):
        refused = call(stand, "trace", wrong)
        assert refused.exit_code == REFUSED, wrong
        assert "X-Understudy-Event" in " ".join(refused.stderr.split())
    shared = call(stand, "trace", first.id[:8])
    assert "2 events and items begin with" in " ".join(shared.stderr.split())
    assert first.id in shared.stderr.replace("\n", "")
    now = call(stand, "trace", new_event_id(wall_clock_s(), Random(1)))
    told = " ".join(now.stderr.split())
    assert "A request that never escalated has no event" in told
    assert f"{TOPIC} (2 records" in told
    to_come = call(stand, "trace", "chatcmpl-" + new_event_id(wall_clock_s() + 9e6, Random(1)))
    assert "which is to come" in to_come.stderr
    several = call(stand, "trace", "classify-" + new_event_id(wall_clock_s(), Random(2)))
    assert "A response to several texts has the id of its first" in " ".join(several.stderr.split())


def test_an_event_that_the_log_has_lost_is_told_by_the_item_that_counted_it(classify: Stand) -> None:
    stand = classify
    event = event_of(stand, 1, 110)
    publish_events(stand, event)
    for key in stand.client.scan_iter("log:{understudy.support}:*"):
        if stand.client.type(key) == b"stream":
            stand.client.xtrim(key, maxlen=0)
    found = run(stand, "trace", event.id)
    assert (found["event"], found["records"], found["item"]["holds_event"]) == (None, [], None)
    assert found["item"]["kept"]["answers"][0]["answer"] == "refund"
    assert "the log no longer has the event" in found["notes"][0]


class Numbered:
    """A log of many records whose times rise, that counts what is read."""

    def __init__(self, count: int, value: bytes, at: int) -> None:
        self.count, self.value, self.at, self.read_records = count, value, at, 0

    def slots(self, topic: str) -> list[LogSlot]:
        return [] if topic.endswith(".dead") else [LogSlot(topic, "u", 0)]

    def bounds(self, slot: LogSlot) -> tuple[str, str]:
        return "0", str(self.count)

    def read(self, slot: LogSlot, start: str, end: str) -> Iterator[Record]:
        for offset in range(int(start), int(end)):
            self.read_records += 1
            yield Record(
                topic=slot.topic, partition=0, offset=offset, key=None, headers=(),
                value=self.value if offset == self.at else b"{}",
                timestamp_ms=int((START_S + 10 * offset) * 1000),
            )  # fmt: skip

    def close(self) -> None: ...


def test_an_id_with_its_time_bounds_what_is_read_and_whole_reads_all(classify: Stand) -> None:
    count, at = 100_000, 90_000
    event = event_of(classify, 1, 10 * at)
    log = Numbered(count, encode(event), at)
    secret = classify.site.secret
    found = search(log, "support", name_of(event.id), secret, whole=False)
    assert [one.record.offset for one in found.found] == [at]
    assert found.looked.since is not None
    assert log.read_records < 12_000, "an hour before it, to the end, and a few to find that"
    log.read_records = 0
    whole = search(log, "support", name_of(event.id), secret, whole=True)
    assert (whole.looked.records, whole.looked.since, whole.looked.whole) == (count, None, True)
    by_key = search(log, "support", name_of("6f0dcb9c-2f0f-5f5e-9a53-7b0f4f1f4a11"), secret, whole=False)
    assert by_key.looked.records == count, "an id of an Idempotency-Key holds no time"


def test_a_letter_that_cannot_be_opened_is_not_the_one_that_is_meant_and_stops_nothing(classify: Stand) -> None:
    stand = classify
    event = event_of(stand, 1, 120)
    publish_events(stand, event)
    lost = event_of(stand, 2, 121)
    lost = msgspec.structs.replace(lost, teacher=msgspec.structs.replace(lost.teacher, label="off the list"))
    publish_events(stand, lost)
    with open_history(stand.site, stand.client) as history:
        for name, secret, letters in ((lost, stand.site.secret, 1), (event, DataSecret(b"x" * 32), 0)):
            found = search(history, "support", name_of(name.id), secret, whole=False)
            assert (len(found.found), len(found.letters)) == (1, letters)
