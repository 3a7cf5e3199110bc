"""`cycle start --wait` follows the cycle that it asked for to its end, and says by its exit code what became of it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from ops.cli.app import app
from ops.cycles.shown import cycle_now, length
from ops.cycles.waiting import await_cycle
from store.control import Control, CycleEnded, CycleRequest
from store.cycles.signs import CycleRunning, Signs, Stage, TrainerSign
from store.errors import StoreUnavailableError
from tests.ops.sites import LANE, make_site

NOW_S = 1_800_000_000.0


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Path:
    return make_site(tmp_path / "site", url=f'"{redis_url}"')


def ended(request: str, **fields: Any) -> CycleEnded:
    known: dict[str, Any] = {"verdict": "pass", "why": "", "version": "a" * 16}
    return CycleEnded(id="1", at_s=NOW_S, seconds=12.0, kind="head", request=request, **(known | fields))


def running(request: str, stage: Stage) -> CycleRunning:
    return CycleRunning(
        id="1",
        kind="head",
        at_s=NOW_S,
        request=request,
        stage=stage,
        number=2,
        stages=6,
        done_ratio=None,
        elapsed_s=3.0,
        left_s=None,
        left_by=None,
    )


def sign(cycle: CycleRunning | None, busy_with: str | None = str(LANE)) -> TrainerSign:
    return TrainerSign(owner="t", at_s=NOW_S, busy_with=busy_with, cycle=cycle)


def start(
    settings: Path,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[str], CycleEnded],
    *arguments: str,
) -> Result:
    """Run the command beside a trainer that passes through its stages, one a look, and then answers."""
    control, signs = Control(client), Signs(client)
    stages: list[Stage] = ["reading", "reading", "judging"]
    looks = 0

    def trainer(_: float) -> None:
        nonlocal looks
        request = control.next_cycle_request(LANE)
        assert request is not None
        if looks < len(stages):
            signs.give(LANE, sign(running(request.id, stages[looks])))
        else:
            control.cycle_ended(LANE, answer(request.id))
        looks += 1

    control.cycle_ended(LANE, ended("somebody else's", verdict="fail"))
    monkeypatch.setattr("ops.cli.lane.cycles.await_cycle", partial(await_cycle, sleep=trainer))
    return CliRunner().invoke(app, ["cycle", "start", "-c", str(settings), "--wait", *arguments])


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({}, 0, "adopted: aaaaaaaaaaaaaaaa is the champion"),
        ({"verdict": "inconclusive", "version": None, "nothing_new": True, "why": "same rows"}, 0, "nothing to do"),
        ({"verdict": "fail", "why": "it fell"}, 4, "declined (fail): the champion stays, after 12 s: it fell"),
        ({"verdict": "inconclusive", "why": "few"}, 4, "declined (inconclusive)"),
        ({"verdict": "inconclusive", "version": None, "why": "too few rows"}, 4, "declined (inconclusive)"),
        ({"verdict": "held", "why": "pinned"}, 4, "declined (held)"),
        ({"verdict": "error", "version": None, "why": "OSError: full"}, 1, "failed, after 12 s: OSError: full"),
    ],
)
def test_the_exit_code_tells_adopted_declined_and_failed_apart(
    settings: Path,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    code: int,
    word: str,
) -> None:
    result = start(settings, redis_client, monkeypatch, lambda request: ended(request, **fields))
    assert result.exit_code == code, result.output
    assert word in result.stdout
    told = result.stderr.splitlines()
    assert [line.partition(" (")[0] for line in told] == ["head, reading", "head, judging"]  # each stage once


def test_a_program_reads_the_same(settings: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    result = start(settings, redis_client, monkeypatch, lambda request: ended(request, verdict="fail"), "-o", "json")
    assert result.exit_code == 4
    told = json.loads(result.stdout)
    assert told["ended"]["verdict"] == "fail"
    assert told["ended"]["request"] == told["request"]


def test_who_stops_waiting_leaves_the_cycle_running(
    settings: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ops.cli.lane.cycles.await_cycle", partial(await_cycle, sleep=interrupt))
    result = CliRunner().invoke(app, ["cycle", "start", "-c", str(settings), "--wait"])
    assert result.exit_code == 130
    assert "the cycle goes on" in result.stderr
    assert Control(redis_client).next_cycle_request(LANE) is not None


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self, meanwhile: Callable[[float], None] = lambda _: None) -> None:
        self.now_s = 0.0
        self.meanwhile = meanwhile

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.meanwhile(self.now_s)


def test_without_a_trainer_it_ends_after_twenty_seconds_and_keeps_the_request(redis_client: redis.Redis) -> None:
    control, clock = Control(redis_client), Clock()
    control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="", at_s=1.0, id="r"))
    with pytest.raises(StoreUnavailableError, match="no trainer is at work"):
        await_cycle(control, Signs(redis_client), LANE, "r", print, monotonic=clock, sleep=clock.sleep)
    assert 20 <= clock.now_s < 22
    assert control.next_cycle_request(LANE) is not None


def test_while_the_trainer_is_at_another_lane_it_waits_and_says_so_once(redis_client: redis.Redis) -> None:
    control, signs, said = Control(redis_client), Signs(redis_client), list[str]()

    def meanwhile(now_s: float) -> None:
        signs.give(LANE, sign(None, "other/lane"))
        if now_s > 300:
            control.cycle_ended(LANE, ended("r"))

    clock = Clock(meanwhile)
    found = await_cycle(control, signs, LANE, "r", said.append, monotonic=clock, sleep=clock.sleep)
    assert found.verdict == "pass"
    assert said == ["waiting: the trainer is at another cycle, of other/lane"]


def test_a_long_stage_is_told_again_every_ten_seconds(redis_client: redis.Redis) -> None:
    control, signs, said = Control(redis_client), Signs(redis_client), list[str]()

    def meanwhile(now_s: float) -> None:
        signs.give(LANE, sign(running("r", "fitting")))
        if now_s > 35:
            control.cycle_ended(LANE, ended("r"))

    clock = Clock(meanwhile)
    await_cycle(control, signs, LANE, "r", said.append, monotonic=clock, sleep=clock.sleep)
    assert len(said) == 4


def test_a_redis_that_is_away_for_a_moment_ends_no_waiting(redis_client: redis.Redis) -> None:
    class Flaky(Control):
        def __init__(self, client: redis.Redis) -> None:
            super().__init__(client)
            self.away = 0

        def ended_cycles(self, *arguments: Any) -> list[CycleEnded]:
            self.away += 1
            if self.away < 30:
                message = "Connection refused"
                raise StoreUnavailableError(message)
            return super().ended_cycles(*arguments)

    control, clock = Flaky(redis_client), Clock()
    control.cycle_ended(LANE, ended("r"))
    found = await_cycle(control, Signs(redis_client), LANE, "r", print, monotonic=clock, sleep=clock.sleep)
    assert found.request == "r"


def test_what_the_trainer_is_at_in_words() -> None:
    assert cycle_now(None) == "no trainer was heard"
    assert cycle_now(sign(None, None)) == "none"
    assert cycle_now(sign(None, "other/lane")) == "none: the trainer is at other/lane"
    assert cycle_now(sign(running("", "reading"))) == "head, reading (stage 2 of 6), 3 s so far, time left unknown"
    assert [length(seconds) for seconds in (0.4, 59.4, 61, 3599, 3660)] == [
        *("0 s", "59 s", "1 min 1 s", "59 min 59 s", "1 h 1 min"),
    ]
