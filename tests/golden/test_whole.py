"""A golden installation as a whole: today's release takes it over, and goes on."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from prometheus_client import CollectorRegistry

from ops.answers.reading import Reading
from ops.exits import UNAVAILABLE
from ops.open_log import open_appender
from ops.site import Site
from ops.wiring import ingest as ingest_wiring
from ops.wiring.serve import lane_versions
from store.buffer.item import Item
from store.buffer.ledger import Claim
from store.buffer.redis import RedisBuffer
from store.buffer.repair.lists import LabelList, Lists
from store.buffer.stored import decode_item
from store.event import TextInput, canonical_text, encode
from store.registry.moves import fold
from store.student.classify import Student
from stream.metrics import IngestMetrics
from tests.golden import facts, scene
from tests.golden.aside import REPLICA, RETURNS
from tests.golden.events import LANE, LISTED_PROMPT, MODEL, PROMPT, asked
from tests.golden.fixed import NOW_S, fixed
from tests.golden.stored import common, dump, read_json
from tests.golden.whole import call, cli_answers
from tests.golden.write import release, write
from tests.tiny import questions
from trainer.cycle import run_cycle
from trainer.learn.classify.freezing import LabelFreezing
from trainer.snapshot import freeze
from trainer.work import drawing_of

AGAIN = "the stored format changed: if that is meant, `python -m tests.golden.write`, and see that older ones are read"


@contextmanager
def ingesting(site: Site, client: redis.Redis, appender: Any) -> Iterator[None]:
    """Ingest at work."""
    ingest = ingest_wiring.ingest(
        site, client, appender, LANE.use_case, "next", IngestMetrics.create(CollectorRegistry())
    )
    stop = threading.Event()
    thread = threading.Thread(target=ingest.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(120.0)
    assert not thread.is_alive()


def test_todays_writer_writes_what_is_kept_here(tmp_path: Path, redis_url: str) -> None:
    kept, new = release(), tmp_path / "new"
    assert kept.is_dir(), "this release has no golden files yet: python -m tests.golden.write"
    (tmp_path / "scratch").mkdir()
    write(new, redis_url, tmp_path / "scratch", kept)
    names = {path.relative_to(root) for root in (kept, new) for path in root.rglob("*") if path.is_file()}
    for name in sorted(names):
        assert (new / name).is_file(), f"{name} is not written any more: {AGAIN}"
        assert (kept / name).is_file(), f"{name} is new: {AGAIN}"
        if name.suffix == ".json" and name.parts[0] != "registry":
            assert read_json(new / name) == read_json(kept / name), f"{name}: {AGAIN}"
        assert (new / name).read_bytes() == (kept / name).read_bytes(), f"{name}: {AGAIN}"


def test_scripts_read_what_they_read(golden: Path, settings: Path) -> None:
    with fixed():
        answers = cli_answers(settings)
    for path in sorted((golden / "cli").glob("*.json")):
        kept = read_json(path)
        assert common(kept, answers[path.stem]) == kept, path.name


def test_verify_finds_nothing_wrong(golden: Path, settings: Path) -> None:
    found, known = call(settings, "verify"), facts.of(golden)
    assert (found["ok"], found["complete"]) == (True, True)
    assert (found["records"], found["found"]) == (known.records, known.items)
    assert (found["versions"], found["moves"], found["rulings"]) == (2, 9, known.rulings)
    assert (found["letters"], found["letters_unsigned"]) == (int(not known.first), 0)


def test_a_rollback_and_a_return(settings: Path, redis_client: redis.Redis) -> None:
    before = call(settings, "status")["lanes"][0]
    for lane in (LANE, RETURNS):
        redis_client.delete(f"{{{lane.use_case}}}:{lane.tenant}:beat:{REPLICA}")  # it would be waited for
    call(settings, "rollback", "--reason", "to see")
    after = call(settings, "status", code=UNAVAILABLE)["lanes"][0]  # nothing is at work
    assert (after["champion"], after["pinned"]) == (before["previous"], True)
    call(settings, "resume", "--reason", "seen")
    assert call(settings, "status", code=UNAVAILABLE)["lanes"][0]["pinned"] is False
    assert call(settings, "verify")["ok"]


def test_a_gateway_takes_the_champion_into_service_and_the_one_before_it(site: Site) -> None:
    versions = lane_versions(site.registry, site.lane(None), site.settings)
    standing = versions.standing()
    for version in (standing.champion, standing.previous):
        assert version is not None
        student = versions.load(version)
        assert student.check_golden() <= student.golden_tolerance
        assert isinstance(student, Student)
        assert list(student.labels) == ["delivery", "login", "refund"]


def test_a_rebuild_from_the_golden_log_makes_the_golden_items(
    golden: Path, settings: Path, redis_client: redis.Redis
) -> None:
    """Events of an old gateway in a new ingest."""
    call(settings, "buffer", "rebuild", "--reason", "to see")
    stored, now = read_json(golden / "redis.json"), dump(redis_client)
    prefix = f"{{{LANE.use_case}}}:{LANE.tenant}:"
    names = {name for name in {*stored, *now} if name.startswith((f"{prefix}item:", f"{prefix}strat"))}
    items = {name for name in names if ":item:" in name}
    assert len(items) == facts.of(golden).items
    assert f"{prefix}strata" in names
    for name in sorted(names - items):
        assert now[name] == stored[name], name
    for name in sorted(items):
        assert in_canonical_form(now[name]) == in_canonical_form(stored[name]), name


def test_dead_letters_are_the_same_after_a_rebuild(golden: Path, settings: Path, redis_client: redis.Redis) -> None:
    buffer, before = RedisBuffer(redis_client, 1), call(settings, "dlq", "list")
    still_open = dict(buffer.open_dead(LANE.use_case))
    assert sum(still_open.values()) == sum(kind["open"] for kind in before["kinds"]) == 3 - (not facts.of(golden).first)
    call(settings, "buffer", "rebuild", "--reason", "to see")
    assert call(settings, "dlq", "list") == before
    assert buffer.open_dead(LANE.use_case) == still_open
    call(settings, "dlq", "replay", "--all", "--reason", "to see", code=1)
    call(settings, "dlq", "drop", "--all", "--reason", "seen")
    assert not any(buffer.open_dead(LANE.use_case).values())


def in_canonical_form(entry: dict[str, Any]) -> Item:
    """A stored item with its text as the first releases kept it: today's layout stays."""
    found = decode_item(entry["value"].encode(), name="golden")
    assert isinstance(found.input, TextInput)
    return msgspec.structs.replace(found, input=TextInput(text=canonical_text(found.input.text)))


def test_a_freeze_makes_the_golden_snapshot(golden: Path, site: Site, redis_client: redis.Redis) -> None:
    versions = site.registry.versions(LANE)
    champion = fold(site.registry.moves(LANE).read()).champion
    assert champion is not None
    opened = versions.open(champion)
    cycle = scene.work(site, redis_client, "fine_tune", champion=None, at_s=opened.manifest.created_s)
    frozen = freeze(
        site.buffer(redis_client).items(LANE),
        LabelFreezing(labels_min=cycle.settings.min_items_per_label),
        prompt_version=cycle.training.prompt_version,
        split=cycle.settings.split,
        quarantine_s=cycle.settings.quarantine_s,
        now_s=cycle.now_s,
        seed=cycle.settings.seed,
        positions=scene.positions(site, redis_client),
        allowed_labels=cycle.training.labels,
        rules=cycle.training.readings,
    )
    if golden == release():
        assert frozen.content == opened.read("snapshot.json")
    was, now = (msgspec.json.decode(content) for content in (opened.read("snapshot.json"), frozen.content))
    assert was.pop("prompt_version") == facts.of(golden).key
    assert now.pop("prompt_version") == f"{MODEL}@{PROMPT}"
    if golden != release():
        now = common(was, now)
    assert now == was


def test_new_events_are_counted_and_a_next_cycle_learns_from_old_and_new(
    golden: Path, site: Site, settings: Path, redis_client: redis.Redis
) -> None:
    known = facts.of(golden)
    old_texts, old_labels = questions(scene.QUESTIONS, seed=3)
    texts, labels = (new + old[-1:] for new, old in zip(questions(30, seed=99), (old_texts, old_labels), strict=True))
    with closing(open_appender(site, redis_client)) as appender, ingesting(site, redis_client, appender):
        for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
            event = asked(5000 + number, text, label)
            key = scene.key_of(site, event).encode()
            value, timestamp_ms = encode(event), int(NOW_S * 1000)
            appender.append(scene.TOPIC, key=key, value=value, timestamp_ms=timestamp_ms).result(60.0)
        buffer = site.buffer(redis_client)
        scene.until(
            lambda: sum(int(at) for at in buffer.positions(LANE.use_case).values()) == known.records + len(texts)
        )
    assert call(settings, "verify")["ok"]
    champion = fold(site.registry.moves(LANE).read()).champion
    items = list(site.buffer(redis_client).items(LANE))
    work = scene.work(site, redis_client, "head", champion=champion, at_s=NOW_S + 1e5)
    (both,) = (item for item in items if item.input == TextInput(text=old_texts[-1]))
    drawing = drawing_of(work.training, work.settings, work.now_s)
    assert set(both.tally) == {known.key, f"{MODEL}@{PROMPT}"}
    assert sum(drawing.answers(both).values()) == both.count == 2
    result = run_cycle(work, items, scene.positions(site, redis_client))
    assert result.version is not None, result.verdict
    manifest = site.registry.versions(LANE).manifest(result.version)
    rows = msgspec.json.decode(site.registry.versions(LANE).open(result.version).read("snapshot.json"))["rows"]
    assert {row["id"] for row in rows} == {item.item_id for item in items}
    assert len([item for item in items if known.key in item.tally]) > known.items - 3
    assert manifest.snapshot is not None
    assert (manifest.snapshot.rows, manifest.snapshot.prompt_version) == (len(items), f"{MODEL}@{PROMPT}")
    assert manifest.parent == champion
    assert manifest.verdict is not None
    assert manifest.verdict.rows_judged > 0
    site.registry.moves(LANE).append(
        "promote", version=result.version, who="trainer", why="next", key=site.trainer_key(), now_s=NOW_S + 1e5
    )
    found = call(settings, "verify")
    assert (found["ok"], found["versions"], found["moves"]) == (True, 3, 10)


def test_ingest_warns_of_no_answer_that_counts(golden: Path, site: Site, redis_client: redis.Redis) -> None:
    """A gateway of the release before may be at work still, and may have had another list of labels."""
    lists, (slot, *_) = Lists(redis_client), site.buffer(redis_client).positions(LANE.use_case)
    shorter = ("delivery", "login")
    claim, noted = Claim(fence=2, position="7"), {LANE: LabelList(labels=list(shorter))}
    lists.note(LANE.use_case, slot, claim, noted, now_s=NOW_S)
    with closing(open_appender(site, redis_client)) as appender:
        metrics = IngestMetrics.create(CollectorRegistry())
        ingest = ingest_wiring.ingest(site, redis_client, appender, LANE.use_case, "next", metrics)
    prompts = ingest._lanes[LANE].prompts
    assert prompts[0] == f"{MODEL}@{PROMPT}"
    counting = {f"{MODEL}@{PROMPT}", f"{MODEL}@{LISTED_PROMPT}", Reading.of(site.lane(None)).key(shorter)}
    accepted = {f"{MODEL}@{scene.ACCEPTED}"} if facts.of(golden).rulings else set()
    assert len(counting) == 3
    assert set(prompts) == counting | accepted


@pytest.mark.parametrize("name", ["trainer", "operator"])
def test_the_keys_sign_on(site: Site, name: str) -> None:
    key = site.trainer_key() if name == "trainer" else site.operator_key()
    move = site.registry.moves(LANE).append("pin", version=None, who=name, why="", key=key, now_s=NOW_S + 9)
    assert move.number == 10
