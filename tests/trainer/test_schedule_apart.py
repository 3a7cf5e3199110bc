"""The watch and the cycles are apart: lanes are shown while one trains, and nothing begins on what was true before."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from store.event import Lane
from tests.trainer.questions import LANE
from tests.trainer.test_due import result
from tests.trainer.test_schedule import World, passed, version
from trainer import metrics
from trainer.daemon.queues import DeviceQueues, Job
from trainer.worker import Worker

LONG_S = 120.0


class Later:
    """Satisfies `trainer.daemon.queues.Queues`: jobs wait until the test lets them run."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.waiting: list[Callable[[], None]] = []

    def put(self, device: str, lane: Lane, job: Job) -> None:
        self.waiting.append(lambda: job(self.worker))

    def busy(self, lane: Lane) -> bool:
        return bool(self.waiting)

    def warm(self, device: str) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def world(tmp_path: Path, redis_client: redis.Redis) -> World:
    return World(tmp_path, redis_client)


def pinned() -> float:
    return float(metrics.PINNED.labels(LANE.tenant, LANE.use_case)._value.get())


def test_lanes_are_looked_at_while_a_cycle_runs(world: World) -> None:
    begun, free = threading.Event(), threading.Event()

    def waits() -> None:
        begun.set()
        free.wait(LONG_S)

    world.worker.meanwhile = waits
    world.trainer.queues = DeviceQueues(lambda: world.worker)  # type: ignore[arg-type, return-value] # the stand-in
    world.fill(40)
    world.worker.answers = [result("inconclusive")]
    world.trainer.tick()
    assert begun.wait(LONG_S)
    before = pinned()
    world.registry.moves(LANE).append("pin", version=None, who="p", why="", key=world.key, now_s=world.now_s)
    world.trainer.tick()
    assert (before, pinned()) == (0.0, 1.0)
    assert len(world.worker.done) == 1
    assert world.reports_so_far() == []
    free.set()
    world.trainer.queues.close()
    assert len(world.reports()) == 1


def test_a_cycle_that_waited_for_its_device_judges_against_todays_champion(world: World) -> None:
    queues = Later(world.worker)  # type: ignore[arg-type] # the stand-in
    world.trainer.queues = queues
    world.fill(40)
    world.trainer.tick()
    world.registry.moves(LANE).append("promote", version=version(7), who="p", why="", key=world.key, now_s=world.now_s)
    world.worker.answers = [passed(8)]
    queues.waiting.pop()()
    assert world.worker.done[0].champion == version(7)
    assert world.standing().champion == version(8)


def test_a_cycle_that_is_not_due_any_more_when_its_turn_comes_is_not_run(world: World) -> None:
    queues = Later(world.worker)  # type: ignore[arg-type] # the stand-in
    world.trainer.queues = queues
    world.fill(40)
    world.trainer.tick()
    world.registry.moves(LANE).append("pause", version=None, who="p", why="", key=world.key, now_s=world.now_s)
    queues.waiting.pop()()
    assert world.worker.done == []
    assert world.control.acquire(LANE, "another", 1.0) is not None  # the lease was given back
