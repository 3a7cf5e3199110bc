"""A cycle of `rank` as the service runs it: a process of its own, items of a real Redis, a version published."""

import threading
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import redis

from store.buffer.item import Entry
from store.buffer.ledger import Application
from store.buffer.redis import RedisBuffer
from store.registry.manifest import Verdict
from store.secrets import item_id
from store.student.tasks import load
from tests.trainer.rank.lists import LANE, RULES, SECRET, a_list, event_of, scored, scores_of
from tests.trainer.rank.test_cycle import registry, work_in
from tests.trainer.test_schedule import a_slot
from trainer.work import CycleResult
from trainer.worker import Worker


def test_a_worker_learns_from_what_ingest_has_kept(tmp_path: Path, redis_client: redis.Redis, redis_url: str) -> None:
    buffer, slot, rng = RedisBuffer(redis_client, 1000), a_slot(), Random(7)
    claim = buffer.claim(LANE.use_case, slot, "test")
    entries = []
    for _ in range(250):
        value = a_list(rng)
        kept = RULES.normal(event_of(value, scored(scores_of(value, rng)), rng), b"key")
        entries.append(Entry.of(kept, item_id(SECRET.lane_key(LANE), RULES, kept.input), RULES))
    applied = buffer.apply(
        Application(
            use_case=LANE.use_case,
            slot=slot,
            fence=claim.fence,
            start=claim.position,
            next=str(len(entries)),
            entries=tuple(entries),
        )
    )
    assert applied.outcome == "ok"
    work, stages = replace(work_in(tmp_path), redis_url=redis_url), list[str]()
    worker = Worker("trainer.cycle:work_on")
    try:
        result: CycleResult = worker.run(
            work, timeout_s=900.0, stop=threading.Event(), tick=lambda: None, told=lambda stage, _: stages.append(stage)
        )
    finally:
        worker.close()
    assert result.version is not None, result.verdict
    assert isinstance(result.verdict, Verdict)
    assert {"reading", "embedding", "fitting", "judging", "publishing"} >= set(stages) >= {"reading", "publishing"}
    opened = registry(work).versions(LANE).open(result.version)
    rows = msgspec.json.decode(opened.read("snapshot.json"))["rows"]
    assert len(rows) == len(list(buffer.items(LANE)))
    assert opened.manifest.snapshot is not None
    assert set(opened.manifest.snapshot.positions.values()) == {str(len(entries))}
    student = load(opened, device="cpu", precision="fp32")
    assert student.check_golden() <= student.golden_tolerance
    assert not list((tmp_path / "cache" / LANE.tenant / LANE.use_case).glob("draft/*"))
