"""Events and dead letters of each release, read by today's code for what they mean."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import msgspec
import pytest

from ops.settings import Settings
from ops.site import Site
from ops.wiring.ingest import lane_keys
from store.buffer.item import Entry
from store.errors import RecordTooLargeError
from store.event import Escalation, Lane, RankInput, Task, Undecodable, UnknownTask, decode, encode
from store.tasks.rank import heard
from store.tasks.tasks import LaneTerms
from stream.dead_letter import DeadLetter, read_dead_letters
from stream.ingest import LaneKeys, triage
from stream.log import Record, dead_topic_of
from stream.memory import MemoryLog
from tests.golden import facts, scene
from tests.golden.events import LANE, every_event
from tests.golden.fixed import NOW_S
from tests.golden.stored import read_json
from tests.golden.whole import put_back
from tests.golden.write import HERE


@pytest.fixture
def home(golden: Path, tmp_path: Path) -> Site:
    """The keys and settings of the release, without a Redis."""
    put_back(golden, tmp_path / "site")
    return scene.in_use(tmp_path / "site", "unix:///nowhere", tmp_path)


def sent(golden: Path) -> list[dict[str, Any]]:
    found = read_json(golden / "events.json")
    assert isinstance(found, list)
    return found


def read(value: str) -> Escalation:
    event = decode(value.encode())
    assert not isinstance(event, Undecodable | UnknownTask), event
    return event


def test_every_event_means_what_it_meant_and_lies_where_it_lay(golden: Path, home: Site) -> None:
    known = every_event(facts.of(golden).prompt)
    assert [line["name"] for line in sent(golden)] == list(known)[: facts.of(golden).events]
    for line in sent(golden):
        event = read(line["value"])
        assert event == known[line["name"]], line["name"]
        old = facts.of(golden).first and event.task != "classify"
        if not old:  # it named what it did not keep otherwise: the order of documents was part of the id
            assert line["key"] == scene.key_of(home, event), line["name"]
        assert line["topic"] == "understudy.support"
    assert [line["headers"] for line in sent(golden)[:3]] == [{}, {"traceparent": scene.TRACEPARENT}, {}]


@pytest.mark.parametrize("place", [(), ("input",), ("teacher",), ("student",), ("escalation",)])
def test_a_field_that_a_newer_release_added_is_ignored_wherever_it_stands(golden: Path, place: tuple[str, ...]) -> None:
    for line in sent(golden):
        value = msgspec.json.decode(line["value"])
        inner = value
        for name in place:
            inner = inner[name] or {}
        inner["added_by_a_newer_release"] = {"any": ["thing", 1.5]}
        assert read(msgspec.json.encode(value).decode()) == read(line["value"])


def test_ingest_makes_of_each_what_it_is(golden: Path, home: Site) -> None:
    keys = lane_keys(home, LANE.use_case)
    for line in sent(golden):
        record = Record(
            topic=line["topic"],
            partition=0,
            offset=0,
            key=line["key"].encode(),
            value=line["value"].encode(),
            headers=(),
            timestamp_ms=int(NOW_S * 1000),
        )
        found = triage(record, use_case=LANE.use_case, lanes=keys, max_age_s=1e8)
        task = msgspec.json.decode(line["value"])["task"]
        if task != "classify":
            assert isinstance(found, Undecodable)
            assert found.detail == f"a {task} event, acme/support takes classify"
            found = triage(record, use_case=LANE.use_case, lanes=of_task(task, keys), max_age_s=1e8)
        assert isinstance(found, Entry), found
        assert found.item_id == line["key"] or (facts.of(golden).first and task != "classify")
        name, text = line["name"], str(getattr(found.event.input, "text", ""))
        if "personal data" in name:
            assert "4111" not in text
            assert "jane" not in text
            assert (text.count("<CARD:"), text.count("<EMAIL:")) == (1, 1)
        if name == "everything optional":
            assert str(found.event.subject).startswith("subject:")
            assert text == "password reset for <EMAIL:0a1b2c3d4e>"
        if name == "a label spelled otherwise":
            assert getattr(found.event.teacher, "label", None) == "refund"
        assert found.event.eligible == (name != "not to be learned from")


def of_task(task: Task, keys: Mapping[Lane, LaneKeys]) -> dict[Lane, LaneKeys]:
    """The lane as one of another task."""
    return {lane: replace(one, task=task, terms=LaneTerms()) for lane, one in keys.items()}


def letters(golden: Path, home: Site) -> list[DeadLetter]:
    log = MemoryLog()
    topic = dead_topic_of(LANE.use_case)
    log.ensure(topic, 1)
    for letter in read_json(golden / "dead_letters.json"):
        headers = tuple((name, value.encode()) for name, value in letter["headers"].items())
        log.append(topic, key=letter["key"].encode(), value=bytes.fromhex(letter["sealed"]), headers=headers).result()
    found = read_dead_letters(log, LANE.use_case, home.secret)
    return sorted(found, key=lambda letter: letter.offset)  # one that was too large is named after the others


def test_every_dead_letter_is_its_original_with_its_reason(golden: Path, home: Site) -> None:
    found = letters(golden, home)
    count = facts.of(golden).dead
    assert [(letter.reason, letter.detail) for letter in found] == [
        (reason, detail) for reason, detail, _ in scene.DEAD[:count]
    ]
    values = scene.dead_values(facts.of(golden).prompt)[:count]
    for offset, (letter, value) in enumerate(zip(found, values, strict=True)):
        assert letter.tenant == scene.TOLD_TENANT.get(letter.reason, "")
        assert (letter.topic, letter.uuid, letter.partition, letter.offset) == (scene.TOPIC, "golden-uuid", 1, offset)
        assert (letter.size, letter.time.timestamp()) == (len(value), NOW_S + offset / 1000)
        if letter.reason == "oversized":
            with pytest.raises(RecordTooLargeError, match="golden-uuid/1/2"):
                letter.raw()
            continue
        record = letter.record()
        assert (record.value, record.timestamp_ms) == (value, int(NOW_S * 1000) + offset)
        assert (record.topic, record.partition, record.offset) == (scene.TOPIC, 1, offset)


def test_what_was_buried_for_its_task_waits_for_the_release_that_keeps_it_once_it_is_brought_back(
    golden: Path, home: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = lane_keys(home, LANE.use_case)
    (to_come,) = (letter for letter in letters(golden, home) if letter.detail.endswith("$.task`"))
    (ranked,) = (letter for letter in letters(golden, home) if letter.detail.startswith("rank events"))

    def found(letter: DeadLetter) -> object:
        return triage(letter.record(), use_case=LANE.use_case, lanes=keys, max_age_s=1e8)

    assert found(to_come) == UnknownTask(task="translate", use_case="support")
    of_lane = triage(ranked.record(), use_case=LANE.use_case, lanes=of_task("rank", keys), max_age_s=1e8)
    assert isinstance(of_lane, Entry)
    assert of_lane.event.input == RankInput(query="shoes", documents=["blue shoes", "red shoes"])
    assert [said.order for said in heard([of_lane.said])] == [(0, 1)]
    monkeypatch.setattr("stream.ingest.decode", lambda value: decode(value.replace(b"translate", b"classify")))
    upgraded = found(to_come)
    assert isinstance(upgraded, Entry)
    assert getattr(upgraded.event.input, "text", "") == "good day"


def test_events_of_the_first_days_are_read() -> None:
    """They were written before the rest of what lies here."""
    lines = (HERE / "events-0.1.0.jsonl").read_text("utf-8").splitlines()
    assert {read(line).__struct_config__.tag for line in lines} == {"classify", "rank", "chat"}
    for line in lines:
        assert decode(encode(read(line))) == read(line)


def test_an_event_is_written_as_it_is_read() -> None:
    for event in every_event().values():
        assert decode(encode(event)) == event


def test_the_settings_of_the_release_are_read(golden: Path, tmp_path: Path) -> None:
    copytree(golden / "site", tmp_path / "site")
    path = tmp_path / "site" / "understudy.toml"
    lane = Settings.load(path).lanes[0]
    assert (str(lane.lane), lane.task, lane.training_permitted) == ("acme/support", "classify", False)
    assert (lane.promise.target, lane.budget.calls_per_day) == (0.95, 5000)
