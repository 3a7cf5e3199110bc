"""The champion and the anchor: handed to every cycle, and moved by nothing but a pass."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from store.control import CycleRequest
from tests.trainer.questions import LANE
from tests.trainer.test_due import result
from tests.trainer.test_schedule import NOW_S, World, passed, version


@pytest.fixture
def world(tmp_path: Path, redis_client: redis.Redis) -> World:
    world = World(tmp_path, redis_client)
    world.fill(40)
    return world


def cycle(world: World, found: Any) -> None:
    """One cycle that comes to this."""
    world.worker.answers = [found]
    world.control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="now", at_s=NOW_S))
    world.trainer.tick()


def test_a_cycle_judges_against_the_champion_and_the_anchor_of_now(world: World) -> None:
    handed = []
    for number, anchor in ((1, True), (2, False), (3, True), (4, False)):
        cycle(world, passed(number, anchor=anchor))
        work = world.worker.done[-1]
        handed.append((work.champion, work.anchor))
    assert handed == [
        (None, None),
        (version(1), version(1)),
        (version(2), version(1)),
        (version(3), version(3)),
    ]


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_a_version_that_is_declined_is_no_anchor_however_good_it_was(world: World, outcome: Any) -> None:
    cycle(world, passed(1, anchor=True))
    cycle(world, replace(result(outcome), version=version(2), anchor=True))
    last = world.moves()[-1]
    assert (last.kind, last.version, last.anchor) == ("decline", version(2), False)
    assert (world.standing().champion, world.standing().anchor) == (version(1), version(1))


def test_a_pass_that_a_person_holds_is_no_anchor(world: World) -> None:
    cycle(world, passed(1, anchor=True))
    world.registry.moves(LANE).append("pin", version=None, who="operator", why="", key=world.key, now_s=NOW_S)
    cycle(world, passed(2, anchor=True))
    last = world.moves()[-1]
    assert (last.kind, last.anchor) == ("decline", False)
    assert (world.standing().champion, world.standing().anchor) == (version(1), version(1))
