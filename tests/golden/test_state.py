"""What each release left in Redis and on disk, read by today's code for what it means."""

import asyncio
import json
from pathlib import Path
from shutil import copytree

import msgspec
import pytest
import redis

from ops.checks.cycles import logged_cycles
from ops.site import Site
from ops.state.run_files import RunFile
from serve.escalation import Given
from serve.front.errors import ApiError
from serve.settings import BudgetSettings
from serve.student.follow import SwapRecord
from serve.tasks.classify.face import LabelledAnswer
from serve.teacher.ledger import RedisLedger
from serve.teacher.spent import OwnSpending
from store.buffer.ledger import AuditTally, Counters, LogSlot
from store.buffer.repair.positions import Positions
from store.control import Control
from store.event import TextInput, decode
from store.registry.moves import fold
from store.registry.students.records import ClassifyRecord
from store.secrets import item_id, subject_token
from store.student.classify import Student
from store.tasks.classify import ClassifyRules
from stream.memory import MemoryLog
from stream.publisher import Publisher
from stream.spool import Spool
from tests.golden import aside, facts, scene
from tests.golden.events import LANE, VERSION, event_id
from tests.golden.fixed import NOW_S, OWNER
from tests.tiny import questions
from trainer.news import UNKNOWN, Stock, drawn, items_at_most, items_with
from trainer.work import drawing_of

HALF_DAY_S = 43_200.0


def test_items_lane_keys_and_positions(golden: Path, site: Site, redis_client: redis.Redis) -> None:
    known = facts.of(golden)
    buffer = site.buffer(redis_client)
    items = {item.item_id: item for item in buffer.items(LANE)}
    assert len(items) == known.items
    assert buffer.counters(LANE) == Counters(
        counted=known.counted, repeats=1, ineligible=1, evicted=0, new_items=known.items
    )
    assert buffer.audits(LANE) == {VERSION: AuditTally(audits=11, agreed=1)}
    assert buffer.dead(LANE.use_case) == {"undecodable": 1, "unknown_lane": 1, "unknown_schema": 1}
    assert buffer.damaged(LANE) == frozenset()
    positions = buffer.positions(LANE.use_case)
    assert [(slot.topic, slot.partition, at) for slot, at in sorted(positions.items())] == [
        (scene.TOPIC, 0, known.positions[0]),
        (scene.TOPIC, 1, known.positions[1]),
    ]
    texts, labels = questions(scene.QUESTIONS, seed=3)
    item = items[item_id(site.secret.lane_key(LANE), ClassifyRules(), TextInput(text=texts[0]))]
    ((prompt, answers),) = item.tally.items()
    assert prompt == known.key
    assert item.input == TextInput(text=texts[0])
    assert sum(answers.values()) == item.count == 3
    assert (answers["login"], item.stratum, item.task) == (1 + 2 * (labels[0] == "login"), labels[0], "classify")
    assert item.event_ids == [(NOW_S - 99_000.0 + place, event_id(1000 + place)) for place in (0, 1000, 1001)]
    assert (item.first_asked_s, item.last_asked_s) == (NOW_S - 99_000.0, NOW_S - 97_999.0)
    assert (item.escalated, item.propensities, item.mass) == (2, {"0.05": 1, "1.0": 2}, 22.0)
    assert item.first_opinion is not None
    assert (item.first_opinion.opinion.version, item.first_opinion.opinion.output) == (VERSION, "refund")
    assert item.subjects == [subject_token(site.secret.subject_key(LANE), "user 0")]


def test_slots_go_on_under_the_next_fence(golden: Path, site: Site, redis_client: redis.Redis) -> None:
    buffer = site.buffer(redis_client)
    for slot in buffer.positions(LANE.use_case):
        position = facts.of(golden).positions[slot.partition]
        assert buffer.claim(LANE.use_case, slot, "next") == (2, position)


def test_a_skip_and_what_was_found_damaged(site: Site, redis_client: redis.Redis) -> None:
    buffer = site.buffer(redis_client)
    assert buffer.damaged(aside.RETURNS) == {f"{2:032x}"}
    assert [item.item_id for item in buffer.items(aside.RETURNS)] == [f"{1:032x}"]
    (skip,) = Positions(redis_client).skips("returns")
    assert (skip.slot, skip.at, skip.to) == (LogSlot("understudy.returns", "returns-uuid", 0), "2", "5")
    assert (skip.unread, skip.again, skip.who, skip.why, skip.at_s) == ((2, 5), (5, 5), "ada", "retention", NOW_S)


def test_what_processes_said_to_one_another(golden: Path, site: Site, redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    beat = control.heartbeats(aside.RETURNS)[aside.REPLICA]
    assert (beat.version, beat.requests, beat.escalated, beat.withheld) == (VERSION, 100, 20, 1)
    assert (beat.recent_requests, beat.recent_escalated, beat.suspended) == (50, 10, True)
    assert (beat.budget_used_calls, beat.budget_limit_calls) == (21, 5000)
    assert (beat.teacher_answers, beat.teacher_unread) == (20, 1)
    assert control.heartbeats(LANE)[aside.REPLICA].version is None
    first = control.next_cycle_request(LANE)
    assert first is not None
    assert (first.kind, first.who, first.why, first.candidate) == ("candidate", "ada", "try", "a" * 16)
    control.finish_cycle_request(LANE, first)
    second = control.next_cycle_request(LANE)
    assert second is not None
    assert (second.kind, second.candidate, second.at_s) == ("fine_tune", None, NOW_S + 1)
    assert (first.id, second.id) == ("", "" if facts.of(golden).first else "waited-for")


def test_training_state_its_rows_and_the_lease(golden: Path, site: Site, redis_client: redis.Redis) -> None:
    control, known = Control(redis_client), facts.of(golden)
    state = control.training_state(LANE)
    assert (state.items_at_cycle, state.items_at_fine_tune, state.waiting_at_cycle) == (known.items, 60, 0)
    assert (state.labels, state.learned_labels, state.learned_at_fine_tune) == (3, 3, 2)
    assert (state.last_cycle_s, state.first_cycle_s, state.fine_tuned_s) == (NOW_S - 10, NOW_S - 1000, NOW_S - 500)
    assert (state.counted_at_cycle, state.prompt_version.split("+")[0]) == (90, known.key)
    rows = control.drawn(LANE)
    assert rows is not None
    assert len(rows) == 8 * known.items
    cycle = scene.work(site, redis_client, "head", champion=None, at_s=NOW_S)
    buffer, drawing = site.buffer(redis_client), drawing_of(cycle.training, cycle.settings, NOW_S)
    assert drawn(buffer.items(LANE), drawing).digests == rows
    most = items_at_most(state, buffer.counters(LANE), drawing.digest)
    assert most == (UNKNOWN if facts.of(golden).first else known.items + known.counted - 90)
    seen = Stock(buffer, control, monotonic=lambda: 0.0, alive=lambda: None).seen(
        LANE, drawing, state, buffer.counters(LANE)
    )
    assert items_with(seen, seen.drawn.digests) == state.items_at_cycle  # nothing is new to learn from
    assert control.acquire(LANE, "another", 30.0) is None
    held = control.acquire(LANE, OWNER, 30.0)
    assert held is not None
    assert held.fence == 1
    control.release(held)
    taken = control.acquire(LANE, "another", 30.0)
    assert taken is not None
    assert taken.fence == 2


def test_cycles_that_ended(golden: Path, site: Site, redis_client: redis.Redis) -> None:
    for ended in (Control(redis_client).ended_cycles(LANE), logged_cycles(site, LANE)):
        good, bad = ended
        assert (good.id, good.kind, good.verdict, good.seconds, good.version) == (
            "golden-1",
            "head",
            "inconclusive",
            12.5,
            "a" * 16,
        )
        assert good.why == "12 judged rows, 300 needed; no threshold could be certified"
        assert (bad.id, bad.verdict, bad.version, bad.next_try_s) == ("golden-2", "error", None, NOW_S + 10)
        waited_for = ("", False) if facts.of(golden).first else ("asked-1", True)
        assert (good.request, good.nothing_new) == waited_for
        assert (bad.request, bad.nothing_new) == ("", False)


def test_what_was_spent_is_counted_on(site: Site, redis_client: redis.Redis) -> None:
    path = site.run_directory / "spent-acme.support.json"
    own = OwnSpending(new_name=lambda: "new", now=lambda: NOW_S + HALF_DAY_S, monotonic=lambda: 5e5, path=path)
    witness = own.witness()
    assert (witness.name, witness.calls, witness.usd_micro, witness.leases) == ("replica-1", 55, 10_500, 3)
    ledger = RedisLedger(redis_client, LANE, BudgetSettings(calls_per_day=60, usd_per_day=40.0))
    used = ledger.used(witness)
    assert (used.used_calls, used.used_usd_micro, used.leases, used.recounted) == (55, 10_500, 3, 0)
    again = ledger.lease("lease-2", "escalation", calls=20, usd_micro=4000, witness=witness)
    assert (again.calls, again.used_calls, again.leases) == (20, 55, 3)  # it was granted before
    more = ledger.lease("lease-4", "escalation", calls=90, usd_micro=4000, witness=witness)
    assert (more.calls, more.leases) == (5, 4)
    later = OwnSpending(new_name=lambda: "new", now=lambda: NOW_S + 3 * HALF_DAY_S, monotonic=lambda: 5e5, path=path)
    assert later.witness().calls == 0


def test_an_answer_under_a_key_is_given_again(site: Site, redis_client: redis.Redis) -> None:
    async def none_left(found: object) -> Given:
        raise AssertionError(found)

    async def the_rest(found: object) -> Given:
        assert isinstance(found, list)
        assert [getattr(one, "label", None) for one in found] == ["delivery", None]
        raise ApiError(503, "teacher_down", "asked for the text without an answer alone")

    async def main() -> None:
        once = aside.once_of(redis_client, site)
        given = await once.answer(aside.KEY, aside.BODY, none_left)
        assert (given.replayed, given.at_s, given.first_id) == (True, NOW_S, "019b0001-0000-7000-8000-000000000001")
        student, teacher = given.found
        assert isinstance(student, LabelledAnswer)
        assert isinstance(teacher, LabelledAnswer)
        assert (student.label, student.probs, student.served_by) == ("delivery", [0.75, 0.125, 0.125], "student")
        assert (teacher.label, teacher.reason, teacher.event_id) == ("login", "low_confidence", given.first_id)
        with pytest.raises(ApiError, match="another request"):
            await once.answer(aside.KEY, {"input": "else"}, none_left)
        with pytest.raises(ApiError, match="alone"):
            await once.answer(f"{aside.KEY} in parts", aside.BODY, the_rest)
        await once.close()

    asyncio.run(main())


def test_run_files_and_swaps(site: Site) -> None:
    serve = msgspec.json.decode((site.run_directory / "serve.json").read_bytes(), type=RunFile)
    assert (serve.name, serve.pid, serve.admin_port, serve.port, serve.started_ticks) == (
        "serve",
        4_000_000,
        9471,
        8080,
        12345,
    )
    swaps = [
        msgspec.json.decode(line, type=SwapRecord)
        for line in (site.run_directory / "swaps.jsonl").read_bytes().splitlines()
    ]
    standing = fold(site.registry.moves(LANE).read())
    assert [(swap.before, swap.after, swap.failed) for swap in swaps] == [
        (None, standing.previous, False),
        (standing.previous, standing.champion, True),
    ]


def test_a_replicas_name_is_the_same_in_every_release(site: Site) -> None:
    state = site.settings.model_copy(update={"state_dir": Path("/srv/understudy/state")})
    assert Site(state).replica.endswith("-bd4f")


def test_the_spool_is_sent_in_order_and_its_torn_tail_cut_off(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    copytree(golden / "spool", folder)
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.spool")}
    log = MemoryLog()
    log.ensure(scene.TOPIC, 1)

    async def main() -> None:
        publisher = Publisher(log, Spool(folder, 1 << 16), ack_timeout_s=60.0)
        newest = max(folder.glob("*.spool"))
        assert newest.stat().st_size < sizes[newest.name]
        await publisher.start()
        await asyncio.to_thread(scene.until, lambda: publisher.counts.resent == 4)
        await publisher.close()

    asyncio.run(main())
    (slot,) = log.slots(scene.TOPIC)
    records = list(log.read(slot, *log.bounds(slot)))
    assert [json.loads(record.value)["id"] for record in records] == [event_id(300 + number) for number in range(4)]
    assert [bool(record.headers) for record in records] == [False, True, False, True]
    assert all(getattr(decode(record.value), "lane", None) == LANE for record in records)


def test_the_moves_lead_where_they_led(site: Site) -> None:
    moves = site.registry.moves(LANE).read()
    assert [(move.kind, move.who) for move in moves] == [
        ("promote", "trainer"),
        ("submit", "operator"),
        ("decline", "trainer"),
        ("promote", "operator"),
        ("pin", "operator"),
        ("rollback", "operator"),
        ("pause", "operator"),
        ("resume", "operator"),
        ("promote", "trainer"),
    ]
    assert [move.time_s for move in moves] == [NOW_S + number for number in range(9)]
    assert moves[3].why == "a person has looked: Zażółć"
    head, tuned = moves[0].version, moves[1].version
    assert (moves[3].candidate, moves[2].candidate) == (tuned, tuned)
    standing = fold(moves)
    assert (standing.champion, standing.previous, standing.anchor) == (tuned, head, tuned)
    assert (standing.pinned, standing.paused, standing.candidates) == (False, False, ())


def test_both_versions_answer_as_they_were_trained_to(golden: Path, site: Site) -> None:
    known = facts.of(golden)
    versions = site.registry.versions(LANE)
    standing = fold(site.registry.moves(LANE).read())
    for version, kind, members in ((standing.previous, "head", 1), (standing.champion, "fine_tune", 2)):
        assert version is not None
        opened = versions.open(version)
        manifest = opened.manifest
        assert (opened.signed_by, manifest.kind, manifest.task) == ("trainer", kind, "classify")
        assert isinstance(manifest.student, ClassifyRecord)
        assert (manifest.student.labels, manifest.code_version, manifest.parent) == (
            ["delivery", "login", "refund"],
            golden.name,
            None,
        )
        assert manifest.snapshot is not None
        assert manifest.snapshot.rows == known.items
        assert set(manifest.snapshot.positions.values()) == set(known.positions)
        assert manifest.snapshot.prompt_version == known.key
        assert manifest.policy is not None
        assert (manifest.policy.target, manifest.policy.confidence_level) == (0.4, 0.8)
        assert manifest.verdict is not None
        assert manifest.verdict.phase == "first"
        student = Student.load(opened, device="cpu", precision="fp32")
        assert student.check_golden() <= student.golden_tolerance
        assert student.predict(["my parcel is late"]).members.shape == (members, 1, 3)
        rows = msgspec.json.decode(opened.read("snapshot.json"))["rows"]
        assert len(rows) == known.items
        assert {row["split"] for row in rows} == {"train", "calibrate", "judge"}
