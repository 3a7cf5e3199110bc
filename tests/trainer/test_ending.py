"""What follows from a move is done once, whatever happened in the middle of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from store.control import CycleRequest, TrainingState
from store.errors import StoreUnavailableError
from tests.trainer.questions import LANE
from tests.trainer.test_due import result
from tests.trainer.test_schedule import NOW_S, World, passed, version
from trainer.daemon.ending import Ending

PARTS = ["cycle_ended", "remember", "finish_cycle_request", "keep_ending"]


@pytest.fixture
def world(tmp_path: Path, redis_client: redis.Redis) -> World:
    return World(tmp_path, redis_client)


def fails_once(world: World, monkeypatch: pytest.MonkeyPatch, name: str, *, of_the_end: bool) -> None:
    """Redis goes away at one call, and is back at the next."""
    call: Callable[..., Any] = getattr(world.control, name)
    left = [1]

    def flaky(*arguments: Any) -> Any:
        if left[0] and (name != "keep_ending" or of_the_end == (arguments[1] is None)):
            left[0] -= 1
            message = "Connection refused"
            raise StoreUnavailableError(message)
        return call(*arguments)

    monkeypatch.setattr(world.control, name, flaky)


def asked(world: World, **more: Any) -> None:
    request = {"kind": "head", "who": "me", "why": "now", "at_s": NOW_S, "id": "r", **more}
    world.control.request_cycle(LANE, msgspec.convert(request, CycleRequest))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("outcome", ["pass", "fail"])
def test_a_redis_that_goes_away_after_the_move_costs_no_second_verdict(
    world: World, monkeypatch: pytest.MonkeyPatch, part: str, outcome: Any
) -> None:
    world.fill(40)
    asked(world)
    world.worker.answers = [passed(1) if outcome == "pass" else result(outcome)]
    fails_once(world, monkeypatch, part, of_the_end=True)
    for _ in range(3):
        world.trainer.tick()
        world.now_s += 60.0
    assert len(world.worker.done) == 1
    assert [move.kind for move in world.moves()] == ["promote" if outcome == "pass" else "decline"]
    assert [report["request"] for report in world.reports()] == ["r"]
    assert world.control.next_cycle_request(LANE) is None
    assert world.control.ending(LANE) is None
    assert world.control.training_state(LANE).items_at_cycle == 40
    assert len(world.control.ended_cycles(LANE)) == (0 if part == "cycle_ended" else 1), "said in a log line then"


def test_a_cycle_that_could_not_note_its_end_moves_nothing_and_begins_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fill(40)
    world.worker.answers = [passed(1), passed(2)]
    fails_once(world, monkeypatch, "keep_ending", of_the_end=False)
    world.trainer.tick()
    assert world.moves() == []
    world.now_s += 60.0
    world.trainer.tick()
    assert world.standing().champion == version(2)
    assert len(world.reports()) == 1


def test_a_candidate_that_was_declined_before_its_trainer_died_is_not_judged_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.registry.moves(LANE).append(
        "submit", version=version(7), who="operator", why="try this", key=world.key, now_s=NOW_S
    )
    asked(world, kind="candidate", candidate=version(7))
    declined = msgspec.structs.replace(result("fail").verdict, refusals=["worse"])
    world.worker.answers = [type(passed(8))(version=version(8), verdict=declined, anchor=False)]
    fails_once(world, monkeypatch, "remember", of_the_end=True)
    for _ in range(3):
        world.trainer.tick()
        world.now_s += 60.0
    assert [work.candidate for work in world.worker.done] == [version(7)]
    assert [move.kind for move in world.moves()] == ["submit", "decline"]
    (ended,) = world.control.ended_cycles(LANE)
    assert (ended.request, ended.why) == ("r", "worse")


def noted(world: World, monkeypatch: pytest.MonkeyPatch) -> Ending:
    """What a trainer leaves that dies right after its move."""
    world.fill(40)
    world.worker.answers = [passed(1)]
    with monkeypatch.context() as patch:
        patch.setattr(world.trainer._conductor._endings.__class__, "finish", lambda *_: None)
        world.trainer.tick()
    said = world.control.ending(LANE)
    assert said is not None
    return msgspec.json.decode(said, type=Ending)


def test_a_note_of_a_move_that_was_not_made_is_thrown_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = noted(world, monkeypatch)
    other = msgspec.structs.replace(ending, number=ending.number + 1)
    world.control.keep_ending(LANE, msgspec.json.encode(other))
    world.worker.answers = [result("inconclusive")]
    world.now_s += 60.0
    world.trainer.tick()
    assert len(world.worker.done) == 2
    assert [report["verdict"] for report in world.reports()] == ["inconclusive"]


def test_a_note_does_not_set_back_what_a_later_cycle_has_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted(world, monkeypatch)
    later = TrainingState(items_at_cycle=70, last_cycle_s=world.now_s + 30.0, counted_at_cycle=40)
    world.control.remember(LANE, later)
    world.now_s += 60.0
    world.trainer.tick()
    assert world.control.training_state(LANE) == later
    assert world.control.ending(LANE) is None
    assert len(world.reports()) == 1


def test_a_damaged_note_counts_as_lost(world: World) -> None:
    world.control.keep_ending(LANE, b'{"report":')
    world.trainer.tick()
    assert world.control.ending(LANE) is None
    assert world.trainer.ready()
