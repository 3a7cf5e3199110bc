"""A line of cycles for each device: lanes wait for their own device alone, and each has one job at a time."""

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from store.event import Lane
from trainer.daemon.queues import DeviceQueues
from trainer.worker import Worker

ONE, TWO, THREE = (Lane("acme", name) for name in ("one", "two", "three"))
LONG_S = 60.0


class Idle:
    """Stands in for a device's worker."""

    def __init__(self) -> None:
        self.closed = False

    def warm(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def made() -> list[Idle]:
    return []


@pytest.fixture
def queues(made: list[Idle]) -> Iterator[DeviceQueues]:
    def new() -> Worker:
        made.append(Idle())
        return cast("Worker", made[-1])

    found = DeviceQueues(new)
    yield found
    found.close()


def test_a_lane_on_another_device_does_not_wait_for_a_cycle(queues: DeviceQueues) -> None:
    free, done = threading.Event(), threading.Event()
    queues.put("cpu", ONE, lambda _: cast("None", free.wait(LONG_S)))
    queues.put("cuda", TWO, lambda _: done.set())
    assert done.wait(LONG_S)
    assert queues.busy(ONE)
    free.set()


def test_lanes_of_one_device_have_their_turns_in_order_and_with_one_worker(
    queues: DeviceQueues, made: list[Idle]
) -> None:
    free, seen = threading.Event(), list[tuple[Lane, Any]]()
    queues.put("cpu", ONE, lambda _: cast("None", free.wait(LONG_S)))
    for lane in (TWO, THREE):
        queues.put("cpu", lane, lambda worker, lane=lane: seen.append((lane, worker)))  # type: ignore[misc]
    assert seen == []
    free.set()
    queues.close()
    assert seen == [(TWO, made[0]), (THREE, made[0])]
    assert made[0].closed


def test_a_lane_has_one_job_at_a_time_and_may_have_another_after_it(queues: DeviceQueues) -> None:
    free, seen, ended = threading.Event(), list[int](), threading.Event()
    queues.put("cpu", ONE, lambda _: cast("None", free.wait(LONG_S)))
    queues.put("cpu", ONE, lambda _: seen.append(1))
    free.set()
    queues.put("cpu", TWO, lambda _: ended.set())
    assert ended.wait(LONG_S)
    assert not queues.busy(ONE)
    queues.put("cpu", ONE, lambda _: seen.append(2))
    queues.close()
    assert seen == [2]


def test_a_job_that_raises_leaves_the_line_open(queues: DeviceQueues) -> None:
    def fails(_: Worker) -> None:
        raise ValueError

    done = threading.Event()
    queues.put("cpu", ONE, fails)
    queues.put("cpu", TWO, lambda _: done.set())
    assert done.wait(LONG_S)
    assert not queues.busy(ONE)
