"""The trainer daemon, with a real registry and a real Redis; only the child's work is a stand-in."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis

from store.buffer.ledger import Application, Entry, Slot
from store.buffer.memory import MemoryBuffer
from store.control import Control, CycleRequest
from store.errors import BrokenChainError
from store.event import EscalationCause, TextInput, new_event_id
from store.registry.moves import Move, Standing, fold
from store.registry.signing import SigningKey, TrustedKeys
from store.registry.versions import Registry
from stream.memory import MemoryLog
from tests.store.test_event import an_event
from tests.trainer.questions import LANE
from tests.trainer.test_cycle import SETTINGS as CYCLE
from tests.trainer.test_due import SETTINGS as SCHEDULE
from tests.trainer.test_due import result
from trainer.schedule import Trainer
from trainer.work import CycleResult, CycleWork, LaneTraining, Places
from trainer.worker import WorkerDiedError

NOW_S = 1_800_000_000.0


class StandIn:
    """Does the child's work: answers with what the test has prepared, or raises it."""

    def __init__(self) -> None:
        self.done: list[CycleWork] = []
        self.answers: list[CycleResult | Exception] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def warm(self) -> None:
        pass

    def run(self, work: Any, *, timeout_s: float, stop: threading.Event, tick: Callable[[], None]) -> Any:
        self.done.append(work)
        tick()
        self.meanwhile()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


class World:
    """A trainer with everything it touches."""

    def __init__(self, folder: Path, client: redis.Redis) -> None:
        keys = folder / "keys"
        keys.mkdir()
        SigningKey.create(keys / "trainer", "trainer")
        self.key = SigningKey.load(keys / "trainer")
        self.registry = Registry(folder / "registry", TrustedKeys.load(keys))
        self.buffer = MemoryBuffer(1000)
        self.control = Control(client)
        self.worker = StandIn()
        self.now_s = NOW_S
        self.wall_step_s = 0.0  # how far somebody has set the wall clock
        self.log = folder / "run" / "cycles.jsonl"
        self.trainer = Trainer(
            lanes=[
                LaneTraining(lane=LANE, task="classify", prompt_version="m@p", target=0.9, confidence=0.95),
            ],
            registry=self.registry,
            buffer=self.buffer,
            control=self.control,
            key=self.key,
            worker=self.worker,  # type: ignore[arg-type] # the stand-in
            owner="trainer-1",
            schedule=SCHEDULE,
            cycle=CYCLE,
            places=Places(
                redis_url="",
                items_per_stratum=1000,
                registry_root=folder / "registry",
                trusted_keys=keys,
                signing_key=keys / "trainer",
                cache=folder / "cache",
                cycle_log=self.log,
                code_version="test",
            ),
            clock=lambda: self.now_s + self.wall_step_s,
            monotonic=lambda: self.now_s,
        )

    def fill(self, count: int) -> None:
        """Put so many distinct questions into the buffer."""
        slot = a_slot()
        claim = self.buffer.claim(LANE.use_case, slot, "test")
        entries = tuple(
            Entry(
                lane=LANE,
                item_id=f"{n:032x}",
                event=an_event(
                    f"question {n}",
                    id=new_event_id(float(n + 1), Random(n)),
                    tenant=LANE.tenant,
                    escalation=EscalationCause(reason="cold", threshold=None, propensity=1.0),
                    input=TextInput(text=f"question {n}"),
                ),
            )
            for n in range(count)
        )
        applied = self.buffer.apply(
            Application(
                use_case=LANE.use_case,
                slot=slot,
                fence=claim.fence,
                start=claim.position,
                next=str(count),
                entries=entries,
            )
        )
        assert applied.outcome == "ok"

    def standing(self) -> Standing:
        return fold(self.moves())

    def moves(self) -> list[Move]:
        return self.registry.moves(LANE).read()

    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def a_slot() -> Slot:
    """A slot of a real topic of the log in memory."""
    log = MemoryLog()
    log.ensure("topic", 1)
    return log.slots("topic")[0]


@pytest.fixture
def world(tmp_path: Path, redis_client: redis.Redis) -> World:
    return World(tmp_path, redis_client)


def version(number: int) -> str:
    return f"{number:016x}"


def passed(number: int, *, anchor: bool = False) -> CycleResult:
    base = result("pass")
    return CycleResult(version=version(number), verdict=base.verdict, anchor=anchor)


def test_nothing_new_means_no_cycle(world: World) -> None:
    world.trainer.tick()
    assert world.worker.done == []
    assert world.trainer.ready()


def test_a_pass_moves_the_champion_and_is_written_down(world: World) -> None:
    world.fill(40)
    world.worker.answers = [passed(1, anchor=True)]
    world.trainer.tick()
    standing = world.standing()
    assert (standing.champion, standing.anchor) == (version(1), version(1))
    assert [report["verdict"] for report in world.reports()] == ["pass"]
    world.trainer.tick()
    assert len(world.worker.done) == 1


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_a_refusal_declines_with_its_reason_and_keeps_the_champion(world: World, outcome: Any) -> None:
    world.fill(40)
    world.worker.answers = [passed(1), result(outcome)]
    world.trainer.tick()
    world.control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="now", at_s=NOW_S))
    world.trainer.tick()
    assert world.standing().champion == version(1)
    assert world.moves()[-1].kind == "decline"
    assert world.moves()[-1].why == f"{outcome}: why"


def test_a_rollback_during_the_cycle_wins(world: World) -> None:
    world.fill(40)
    world.worker.answers = [passed(1), passed(2), passed(3)]
    world.trainer.tick()
    for _ in range(2):
        world.control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="now", at_s=NOW_S))
    world.trainer.tick()

    def roll_back() -> None:
        world.registry.moves(LANE).append(
            "rollback", version=version(1), who="operator", why="bad answers", key=world.key, now_s=NOW_S
        )

    world.worker.meanwhile = roll_back
    world.trainer.tick()
    standing = world.standing()
    assert (standing.champion, standing.pinned) == (version(1), True)
    assert world.reports()[-1]["verdict"] == "held"
    assert world.moves()[-1].kind == "decline"


def test_a_request_is_done_once_and_survives_a_trainer_that_died(world: World) -> None:
    world.fill(10)
    world.control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="now", at_s=NOW_S))
    world.worker.answers = [WorkerDiedError("killed"), passed(1)]
    world.trainer.tick()
    assert world.standing().champion is None
    world.trainer.tick()
    assert len(world.worker.done) == 1, "it waits before it tries again"
    world.now_s += 31.0
    world.trainer.tick()
    assert world.standing().champion == version(1)
    world.now_s += 31.0
    world.trainer.tick()
    assert len(world.worker.done) == 2


def test_a_lane_that_could_not_be_looked_at_is_looked_at_again_at_once(world: World) -> None:
    world.fill(30)
    world.worker.answers = [result("pass")]
    reads = world.trainer.registry

    class Gone:
        def moves(self, _: object) -> None:
            message = "the chain is broken"
            raise BrokenChainError(message)

    world.trainer.registry = Gone()  # type: ignore[assignment] # a stand-in
    for _ in range(20):
        world.trainer.tick()
        world.now_s += 1.0
    world.trainer.registry = reads
    world.trainer.tick()
    assert len(world.worker.done) == 1


def test_a_candidate_is_judged_and_answered(world: World) -> None:
    world.fill(40)
    world.worker.answers = [passed(1)]
    world.trainer.tick()
    world.registry.moves(LANE).append(
        "submit", version=version(7), who="operator", why="try this", key=world.key, now_s=NOW_S
    )
    world.worker.answers = [replace(result("fail"), version=version(8))]
    world.trainer.tick()
    assert world.worker.done[-1].kind == "candidate"
    assert world.worker.done[-1].candidate == version(7)
    assert world.standing().candidates == ()
    assert world.reports()[-1]["candidate"] == version(7)
    world.trainer.tick()
    assert len(world.worker.done) == 2


def test_a_trainer_that_lost_its_lease_moves_nothing(world: World, redis_client: redis.Redis) -> None:
    world.fill(40)
    world.worker.answers = [passed(1)]

    def another_takes_over() -> None:
        for key in redis_client.scan_iter("*:lease"):
            redis_client.delete(key)
        assert world.control.acquire(LANE, "trainer-2", 60.0) is not None

    world.worker.meanwhile = another_takes_over
    world.trainer.tick()
    assert world.moves() == []


def test_another_trainers_lease_is_respected(world: World) -> None:
    world.fill(40)
    assert world.control.acquire(LANE, "trainer-2", 60.0) is not None
    world.trainer.tick()
    assert world.worker.done == []


def test_the_daemon_stops_when_it_is_asked_to(world: World) -> None:
    stop = threading.Event()
    running = threading.Thread(target=world.trainer.run, args=(stop,))
    running.start()
    stop.set()
    running.join(10)
    assert not running.is_alive()
    assert world.trainer.healthy()
