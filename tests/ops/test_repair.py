"""Ingest under what breaks Redis and the log, and the commands that mend it; on a real Redis."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.cli.app import app
from serve.settings import BudgetSettings
from serve.teacher.ledger import RedisLedger
from serve.teacher.spent import Witness
from store.buffer.ledger import BEGINNING, Application
from store.buffer.server import private_redis
from store.control import Control, Heartbeat
from store.event import UnknownTask, encode
from stream.outbox import partition_of
from tests.contracts.escalations import escalation
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand, standing, until
from tests.store.buffer.failover import failover_pair


@pytest.fixture
def stand(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    with standing(tmp_path, redis_url, partitions="2") as made:
        yield made


def call(stand: Stand, *arguments: str, code: int = 0) -> Any:
    """A command's answer, without what ingest logs meanwhile in another thread of this process."""
    found = CliRunner().invoke(app, [*arguments, "-c", str(stand.path), "-o", "json"])
    assert found.exit_code == code, found.output
    said = "".join(line for line in found.stdout.splitlines(keepends=True) if not re.match(r"\d{4}-\d\d-\d\d ", line))
    return json.loads(said) if said else found.stderr


def stream_key(stand: Stand, partition: int) -> str:
    uuid = stand.client.hget(f"log:{{{TOPIC}}}", "uuid")
    assert isinstance(uuid, bytes)
    return f"log:{{{TOPIC}}}:{uuid.decode()}:{partition}"


def test_ingest_goes_on_by_itself_after_redis_was_emptied(stand: Stand) -> None:
    with stand.ingesting() as ingest:
        stand.send(20)
        until(lambda: stand.counters.counted == 20)
        stand.client.flushall()
        stand.send(15)
        until(lambda: stand.counters.counted == 15)
        until(lambda: ingest.ready)
        report = stand.verify()
    assert report.ok
    assert report.complete
    assert report.records == 15


def test_ingest_makes_the_topics_again_although_nothing_is_sent(stand: Stand) -> None:
    with stand.ingesting() as ingest:
        until(lambda: ingest.ready)
        old = stand.client.hget(f"log:{{{TOPIC}}}", "uuid")
        stand.client.flushall()
        until(lambda: stand.client.hget(f"log:{{{TOPIC}}}", "uuid") not in {None, old})
        until(lambda: ingest.ready)
        assert stand.client.hget(f"log:{{{TOPIC}}}", "partitions") == b"2"


def test_a_writer_makes_its_topic_again_although_nobody_reads(stand: Stand) -> None:
    stand.send(3)
    stand.client.flushall()
    stand.send(4)
    assert sum(int(stand_bounds(stand, slot)[1]) for slot in stand_slots(stand)) == 4


def test_a_redis_that_is_gone_for_a_while_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    with ExitStack() as server, ExitStack() as stack:
        url = server.enter_context(private_redis(tmp_path / "redis"))
        stand = stack.enter_context(standing(tmp_path, url))
        ingest = stack.enter_context(stand.ingesting())
        stand.send(10)
        until(lambda: stand.counters.counted == 10 and ingest.ready)
        until(lambda: stand.metric("ingest_dependency_up", dependency="redis") == 1)
        server.close()
        until(lambda: stand.metric("ingest_dependency_up", dependency="redis") == 0)
        assert stand.metric("ingest_dependency_up", dependency="log") == 0
        assert not ingest.ready
        assert all("waits for" in why for why in ingest.troubles)
        progress = stand.metric("ingest_last_progress_timestamp_seconds")
        server.enter_context(private_redis(tmp_path / "redis"))
        until(lambda: ingest.ready)
        stand.send(10)
        until(lambda: stand.counters.counted == 20)
        until(lambda: stand.metric("ingest_dependency_up", dependency="log") == 1)
        assert (stand.metric("ingest_last_progress_timestamp_seconds") or 0) > (progress or 0)
        assert stand.verify().ok
        stack.close()


def test_a_failover_that_leaves_the_old_primary_as_a_replica_stops_nobody(tmp_path: Path) -> None:
    with failover_pair(tmp_path) as pair, standing(tmp_path, pair.url) as stand, stand.ingesting() as ingest:
        stand.send(10)
        until(lambda: stand.counters.counted == 10)
        control = Control(stand.client)
        control.announce(LANE, "r", Heartbeat(version=None, at_s=1.0))
        ledger = RedisLedger(stand.client, LANE, BudgetSettings(calls_per_day=100))
        ledger.lease("one", "escalation", calls=5, usd_micro=0, witness=Witness(name="r"))
        pair.fail_over()
        assert ledger.lease("two", "escalation", calls=5, usd_micro=0, witness=Witness(name="r")).used_calls == 10
        control.announce(LANE, "r", Heartbeat(version=None, at_s=2.0))
        assert Control(pair.new).heartbeats(LANE)["r"].at_s == 2.0
        stand.send(10)
        until(lambda: stand.counters.counted == 20)
        until(lambda: ingest.ready)
        assert stand.verify().ok


def test_a_flipped_byte_costs_one_item_is_told_and_a_rebuild_mends_it_while_ingest_is_at_work(stand: Stand) -> None:
    with stand.ingesting() as ingest:
        stand.send(35)
        until(lambda: stand.counters.counted == 35)
        damaged = stand.flip("question 3")
        stand.send(7)  # one of them meets the damage
        until(lambda: stand.counters.counted == 42 and ingest.ready)
        assert stand.items()["question 3"].count == 1
        assert stand.items()["question 2"].count == 6
        until(lambda: stand.metric("buffer_corrupt_items", tenant=LANE.tenant) == 1)
        found = call(stand, "verify", code=1)
        assert found["damaged"] == [f"{LANE}: {damaged}"]
        assert damaged in {one["what"] for one in found["differing"]}

        (planned,) = call(stand, "buffer", "rebuild", "--dry-run")
        assert (planned["done"], planned["complete"], planned["damaged"]) == (False, True, [damaged])
        assert stand.items()["question 3"].count == 1
        with traffic(stand):
            (done,) = call(stand, "buffer", "rebuild", "--reason", "a flipped byte")
        assert (done["done"], done["lost"]) == (True, [])
        until(lambda: stand.counters.counted == stand.sent)
        assert call(stand, "verify")["ok"]
        until(lambda: stand.metric("buffer_corrupt_items", tenant=LANE.tenant) == 0)
        until(lambda: ingest.ready)
    assert not [key for key in stand.client.scan_iter() if b":rebuild:" in key]


class traffic:  # noqa: N801 - a context
    """Events all the while."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.stand.send(3)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def test_where_the_logs_beginning_is_gone_only_what_is_damaged_is_rebuilt(stand: Stand) -> None:
    with stand.ingesting():
        stand.send(14, questions=14)
        until(lambda: stand.counters.counted == 14)
    for partition in (0, 1):
        stand.client.xtrim(stream_key(stand, partition), minid="3-0", approximate=False)
    kept = stand.items()
    with stand.ingesting():
        stand.send(1, questions=14)  # question 0 once more
        until(lambda: stand.counters.counted == 15)
    cut = {record.key for slot in stand_slots(stand) for record in stand_read(stand, slot)}
    here = next(text for text in kept if text.encode() in cut and text != "question 0")
    gone = next(text for text in kept if text.encode() not in cut and text != "question 0")
    lost = stand.flip(gone)
    stand.flip(here)
    (report,) = call(stand, "buffer", "rebuild", "--reason", "damage", code=1)
    assert (report["complete"], report["lost"], report["items_after"]) == (False, [lost], 13)
    after = stand.items()
    assert after.keys() == kept.keys() - {gone}
    assert after[here] == kept[here]
    assert after["question 0"].count == 2
    found = call(stand, "verify")
    assert (found["ok"], found["complete"], found["damaged"]) == (True, False, [])


def stand_slots(stand: Stand) -> Any:
    return stand.appender.slots(TOPIC)  # type: ignore[attr-defined] # the embedded log is all three


def stand_bounds(stand: Stand, slot: Any) -> Any:
    log: Any = stand.appender
    return log.bounds(slot)


def stand_read(stand: Stand, slot: Any) -> Any:
    log: Any = stand.appender
    return log.read(slot, *log.bounds(slot))


@pytest.mark.parametrize("lost", ["counters", "audits", "strata", "stratum:refund"])
def test_a_rebuild_mends_what_is_no_item_too(stand: Stand, lost: str) -> None:
    with stand.ingesting():
        stand.send(20)
        until(lambda: stand.counters.counted == 20)
        name = f"{{{LANE.use_case}}}:{LANE.tenant}:{lost}"
        stand.client.delete(name)
        stand.client.set(name, "something else")
        stand.send(14, questions=14)
        until(lambda: sum(int(at) for at in stand.buffer.positions(LANE.use_case).values() if at != "-1") == 34)
        assert not stand.verify().ok
        call(stand, "buffer", "rebuild", "--reason", "damage")
        assert stand.verify().ok
        stand.send(5)
        until(lambda: stand.counters.counted == 39)
    assert stand.verify().ok


def test_records_that_retention_removed_unread_stop_one_partition_until_a_person_skips_them(stand: Stand) -> None:
    with stand.ingesting():
        stand.send(14, questions=14)
        until(lambda: stand.counters.counted == 14)
    stand.send(56, questions=14)
    before = {slot.partition: int(at) for slot, at in stand.buffer.positions(LANE.use_case).items()}
    stand.client.xtrim(stream_key(stand, 0), minid=f"{before[0] + 4}-0", approximate=False)  # three unread ones
    with stand.ingesting() as ingest:
        until(lambda: stand.metric("ingest_stopped_partitions") == 1)
        ends = {slot.partition: int(at) for slot, at in stand.buffer.positions(LANE.use_case).items()}
        until(lambda: stand.metric("ingest_lag_records", partition="1") == 0)  # the other one goes on
        assert "3 records were deleted before they were read" in " ".join(ingest.troubles)
        assert not ingest.ready
        (planned,) = call(stand, "ingest", "skip", "--use-case", "support", "--dry-run")
        assert (planned["partition"], planned["never_read"], planned["read_again"]) == (0, 3, 0)
        assert (planned["position"], planned["to"], planned["done"]) == (str(ends[0]), str(ends[0] + 3), False)
        assert call(stand, "ingest", "skip", code=2)  # without a reason
        (done,) = call(stand, "ingest", "skip", "--use-case", "support", "--partition", "0", "--reason", "it is May")
        assert (done["done"], done["never_read"]) == (True, 3)
        until(lambda: stand.counters.counted == 70 - 3 and ingest.ready)
        assert "nothing of support stands still" in call(stand, "ingest", "skip", "--reason", "again", code=4)
        found = call(stand, "verify")
    assert (found["ok"], found["complete"]) == (True, False)
    (skipped,) = found["skipped"]
    assert f"{ends[0]} to {ends[0] + 3} never read" in skipped
    assert "it is May" in skipped


def test_events_of_a_task_to_come_stop_one_partition_until_the_upgrade_or_a_person_skips_them(stand: Stand) -> None:
    with stand.ingesting():
        stand.send(14, questions=14)
        until(lambda: stand.counters.counted == 14)
    ends = {slot.partition: int(at) for slot, at in stand.buffer.positions(LANE.use_case).items()}
    value = encode(escalation("question 0", number=100)).replace(b'"classify"', b'"translate"')
    key = next(b"%d" % n for n in range(100) if partition_of(b"%d" % n, 2) == 0)
    for _ in range(2):
        stand.appender.append(TOPIC, key=key, value=value).result(10)
    stand.send(56, questions=14)
    with stand.ingesting() as ingest:
        until(lambda: stand.metric("ingest_stopped_partitions") == 1)
        until(lambda: stand.metric("ingest_lag_records", partition="1") == 0)  # the other one goes on
        assert f"partition 0 stands still: offset {ends[0]} is an event of task 'translate'" in " ".join(
            ingest.troubles
        )
        assert not ingest.ready
        until(lambda: stand.metric("ingest_positions_outside_log_total") == 0)
        found = stand.verify()  # nothing was lost by the stop, and nothing buried
        assert (found.ok, found.complete) == (True, True)
        (planned,) = call(stand, "ingest", "skip", "--dry-run")
        assert (planned["partition"], planned["never_read"], planned["read_again"]) == (0, 2, 0)
        assert (planned["position"], planned["to"]) == (str(ends[0]), str(ends[0] + 2))
        assert "'translate'" in planned["why_stopped"]
        call(stand, "ingest", "skip", "--reason", "an experiment that ended")
        until(lambda: stand.counters.counted == 70 and ingest.ready)
    assert dict(stand.buffer.dead(LANE.use_case)) == {}


def test_what_an_earlier_release_buried_for_its_task_is_no_difference_to_verify_and_to_a_rebuild(stand: Stand) -> None:
    value = encode(escalation("question 0", number=100)).replace(b'"classify"', b'"translate"')
    stand.appender.append(TOPIC, key=b"k", value=value).result(10)
    slot = next(slot for slot in stand_slots(stand) if stand_bounds(stand, slot)[1] == "1")
    fence = stand.buffer.claim(LANE.use_case, slot, "an earlier release").fence
    stand.buffer.apply(
        Application(
            use_case=LANE.use_case,
            slot=slot,
            fence=fence,
            start=BEGINNING,
            next="1",
            entries=(),
            dead={UnknownTask.buried_as: 1},
        )
    )
    assert stand.verify().ok
    call(stand, "buffer", "rebuild", "--reason", "to see")
    assert dict(stand.buffer.dead(LANE.use_case)) == {"wrong_shape": 1}
    assert stand.verify().ok


@pytest.mark.parametrize("to", ["beginning", "end"])
def test_a_log_that_lost_its_tail_is_read_again_or_not_as_a_person_says(stand: Stand, to: str) -> None:
    with stand.ingesting():
        stand.send(10, questions=10)
        until(lambda: stand.counters.counted == 10)
    slots = stand_slots(stand)
    positions = {slot: int(at) for slot, at in stand.buffer.positions(LANE.use_case).items()}
    for slot in slots:  # the last two of each partition are gone
        key, end = stream_key(stand, slot.partition), positions[slot]
        stand.client.xdel(key, f"{end}-0", f"{end - 1}-0")
        stand.client.hset(key.rpartition(":")[0], f"end:{slot.partition}", str(end - 2))
    with stand.ingesting() as ingest:
        until(lambda: stand.metric("ingest_stopped_partitions") == 2)
        planned = call(stand, "ingest", "skip", "--to", to, "--dry-run")
        sizes = sorted(positions[slot] - 2 for slot in slots)
        assert sorted(one["read_again"] for one in planned) == (sizes if to == "beginning" else [0, 0])
        assert sorted(one["never_read"] for one in planned) == (sizes if to == "end" else [0, 0])
        call(stand, "ingest", "skip", "--to", to, "--reason", "the broker lost its tail")
        until(lambda: ingest.ready)
        until(lambda: stand.counters.repeats == sum(one["read_again"] for one in planned))
        assert stand.counters.counted == 10  # what was read again is recognised by its id
    found = call(stand, "verify")
    assert (found["ok"], found["complete"], len(found["skipped"])) == (True, False, 2)


def test_a_position_that_is_no_number_waits_for_a_person(stand: Stand) -> None:
    with stand.ingesting():
        stand.send(10)
        until(lambda: stand.counters.counted == 10)
    (slot, _) = stand_slots(stand)
    stand.client.hset(f"{{support}}:pos:{slot.uuid}:{slot.partition}", "next", b"\xff7")
    with stand.ingesting() as ingest:
        until(lambda: stand.metric("ingest_stopped_partitions") == 1)
        assert call(stand, "status", code=3)["unavailable"] == []
        call(stand, "ingest", "skip", "--reason", "damage")
        until(lambda: ingest.ready)
        until(lambda: stand.counters.repeats > 0)
        assert stand.counters.counted == 10


def test_a_rebuild_is_refused_while_a_position_is_not_in_the_log(stand: Stand) -> None:
    with stand.ingesting():
        stand.send(10)
        until(lambda: stand.counters.counted == 10)
    (slot, _) = stand_slots(stand)
    stand.client.hset(f"{{support}}:pos:{slot.uuid}:{slot.partition}", "next", "99")
    assert "ingest skip" in call(stand, "buffer", "rebuild", "--reason", "x", code=4)
