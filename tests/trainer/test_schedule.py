"""The trainer daemon, with a real registry and a real Redis; only the child's work is a stand-in."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
import structlog
from prometheus_client import REGISTRY

from store.answers.rules import Rules
from store.buffer.item import Entry
from store.buffer.ledger import Application, LogSlot
from store.buffer.memory import MemoryBuffer
from store.control import Control, CycleEnded, CycleRequest
from store.cycles.signs import Signs, TrainerSign
from store.errors import BrokenChainError, StoreUnavailableError
from store.event import EscalationCause, Lane, TextInput, new_event_id, utc
from store.money.books import Books
from store.money.deeds import Deeds
from store.registry.moves import Move, Standing, fold
from store.registry.registry import Registry
from store.registry.signing import SigningKey, TrustedKeys
from store.tasks.classify import ClassifyRules
from store.tasks.tasks import LaneTerms
from stream.memory import MemoryLog
from tests.store.test_event import an_event
from tests.trainer.questions import LANE
from tests.trainer.test_cycle import SETTINGS as CYCLE
from tests.trainer.test_due import SETTINGS as SCHEDULE
from tests.trainer.test_due import result
from trainer.daemon.progress import Progress
from trainer.daemon.queues import Job
from trainer.daemon.training_books import TrainingBooks
from trainer.schedule import Trainer
from trainer.work import CycleResult, CycleWork, LaneTraining, Places, draft_folder
from trainer.worker import Worker, WorkerDiedError, WorkFailedError

NOW_S = 1_800_000_000.0
TERMS = LaneTerms(labels=("refund", "other"))


class StandIn:
    """Does the child's work: answers with what the test has prepared, or raises it."""

    def __init__(self) -> None:
        self.done: list[CycleWork] = []
        self.answers: list[CycleResult | Exception] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.says: list[tuple[str, float | None]] = []

    def warm(self) -> None:
        pass

    def run(
        self,
        work: Any,
        *,
        timeout_s: float,
        stop: threading.Event,
        tick: Callable[[], None],
        told: Callable[..., None],
    ) -> Any:
        self.done.append(work)
        for stage, done_ratio in self.says:
            told(stage, done_ratio)
        tick()
        self.meanwhile()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


class AtOnce:
    """Satisfies `trainer.daemon.queues.Queues`: a cycle has ended before the tick has."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def put(self, device: str, lane: Lane, job: Job) -> None:
        job(self.worker)

    def busy(self, lane: Lane) -> bool:
        return False

    def warm(self, device: str) -> None:
        self.worker.warm()

    def close(self) -> None:
        self.worker.close()


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
            signs=Signs(client),
            books=Books(client),
            key=self.key,
            queues=AtOnce(self.worker),  # type: ignore[arg-type] # the stand-in
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

    def fill(self, count: int, *, first: int = 0, age_s: float = 1e8) -> None:
        """Put so many distinct questions into the buffer, asked so long ago."""
        slot = a_slot()
        claim = self.buffer.claim(LANE.use_case, slot, "test")
        entries = tuple(
            Entry.of(
                an_event(
                    f"question {n}",
                    id=new_event_id(float(n + 1), Random(n)),
                    time=utc(self.now_s + self.wall_step_s - age_s),
                    tenant=LANE.tenant,
                    escalation=EscalationCause(reason="cold", threshold=None, propensity=1.0),
                    input=TextInput(text=f"question {n}"),
                ),
                f"{n:032x}",
                ClassifyRules(),
            )
            for n in range(first, first + count)
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

    def reports_so_far(self) -> list[dict[str, Any]]:
        return self.reports() if self.log.exists() else []

    def quarantine(self, seconds: float) -> None:
        """Set the trainer's quarantine."""
        self.trainer.cycle = replace(CYCLE, quarantine_s=seconds)
        self.trainer._conductor.cycle = self.trainer.cycle

    def ticks(self, count: int, *, every_s: float = 60.0) -> int:
        """Look so many times, and say how many cycles that made."""
        done = len(self.worker.done)
        for _ in range(count):
            self.now_s += every_s
            self.worker.answers = [result("inconclusive")]
            self.trainer.tick()
        return len(self.worker.done) - done


class Away:
    """A control plane, registry or buffer that does not answer."""

    def __getattr__(self, name: str) -> Any:
        def call(*_: object, **__: object) -> Any:
            message = "Connection refused"
            raise StoreUnavailableError(message)

        return call


def a_slot() -> LogSlot:
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


def test_a_candidate_that_nobody_has_submitted_is_told_once_and_off_the_queue(world: World) -> None:
    world.control.request_cycle(LANE, CycleRequest(kind="candidate", who="me", why="now", at_s=NOW_S))
    world.trainer.tick()
    assert world.control.next_cycle_request(LANE) is None
    assert [report["verdict"] for report in world.reports()] == ["error"]
    assert "no candidate" in world.reports()[0]["refusals"][0]
    assert world.worker.done == []
    assert world.trainer.ready()
    assert world.control.acquire(LANE, "trainer-2", 60.0) is not None


def test_whatever_happens_before_a_cycle_the_lease_is_given_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        message = "why"
        raise RuntimeError(message)

    monkeypatch.setattr(world.trainer._conductor, "work", fails)
    world.fill(40)
    world.trainer.tick()
    assert world.control.acquire(LANE, "trainer-2", 60.0) is not None


@pytest.mark.parametrize("kind", ["link", "file", "folder"])
def test_whatever_lies_in_the_drafts_place_is_cleared_away_and_no_link_is_followed(
    world: World, tmp_path: Path, kind: str
) -> None:
    draft = draft_folder(world.trainer.places.cache, LANE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    draft.parent.mkdir(parents=True)
    if kind == "link":
        draft.symlink_to(elsewhere)
    elif kind == "file":
        draft.touch()
    else:
        draft.mkdir()
        (draft / "part").touch()
    world.trainer._conductor.sweep(LANE)
    assert not os.path.lexists(draft)
    assert (elsewhere / "kept").exists()


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


def test_rows_in_quarantine_trigger_no_cycle_and_all_of_them_one_when_they_are_out(world: World) -> None:
    world.quarantine(7200.0)
    world.fill(1000, age_s=86_400.0)
    assert world.ticks(1) == 1
    world.fill(400, first=1000, age_s=0.0)  # enough for eight cycles, if anybody could learn from them
    assert world.ticks(110) == 0
    assert world.ticks(20) == 1
    assert world.ticks(300) == 0, "not by time either"


def test_a_cycle_that_a_person_asks_for_runs_whatever_there_is_to_learn(world: World) -> None:
    world.quarantine(3600.0)
    world.fill(40, age_s=86_400.0)
    assert world.ticks(1) == 1
    world.control.request_cycle(LANE, CycleRequest(kind="fine_tune", who="me", why="now", at_s=NOW_S))
    assert world.ticks(2) == 1
    assert world.worker.done[-1].kind == "fine_tune"


def test_questions_that_were_evicted_before_anybody_drew_them_trigger_no_cycle(world: World) -> None:
    world.buffer._k = 50
    world.fill(50)
    assert world.ticks(1) == 1
    before = {item.item_id for item in world.buffer.items(LANE)}
    world.fill(500, first=50)
    came = len({item.item_id for item in world.buffer.items(LANE)} - before)
    assert (world.buffer.counters(LANE).new_items, came >= 30) == (550, True)
    assert world.ticks(3) == 1, "what was kept of them is new"
    assert world.ticks(100) == 0


def test_answers_of_another_prompt_trigger_no_cycle(world: World) -> None:
    world.trainer.lanes = [replace(world.trainer.lanes[0], prompt_version="m@another")]
    world.fill(500)
    assert world.ticks(200) == 0


def test_the_rows_that_the_cycle_drew_count_not_those_that_were_there_when_it_began(world: World) -> None:
    world.fill(40)
    drawn_later = b"".join(bytes([n, 0, 0, 0, 0, 0, 0, 0]) for n in range(60))
    world.worker.answers = [replace(result("inconclusive"), drawn=drawn_later)]
    world.trainer.tick()
    assert world.control.drawn(LANE) == drawn_later
    assert world.control.training_state(LANE).items_at_cycle == 60


@pytest.mark.parametrize("step_s", [-300.0, -1800.0, -1e9, 1800.0])
def test_a_wall_clock_that_is_set_neither_stops_the_schedule_nor_makes_it_spin(world: World, step_s: float) -> None:
    world.fill(1000)
    assert world.ticks(1) == 1
    world.fill(5, first=1000)
    world.wall_step_s = step_s
    early = world.ticks(50)
    late = world.ticks(20)
    assert (early, late) == (0, 1), "by time: 3600 s after the last"
    assert len({work.cycle_id for work in world.worker.done}) == 2
    world.worker.answers = [WorkerDiedError("killed")]
    world.control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="now", at_s=NOW_S))
    world.trainer.tick()
    world.wall_step_s -= 1800.0
    assert world.ticks(1, every_s=31.0) == 1, "the wait after a failure is not half an hour longer"


def test_a_failed_cycle_is_told_with_its_error_first_and_leaves_no_draft(world: World) -> None:
    world.fill(40)
    draft = draft_folder(world.trainer.places.cache, LANE)
    traceback = (
        "Traceback (most recent call last):\n" + "  File a, line 1\n" * 2000 + "OSError: [Errno 28] No space left"
    )

    def half_written() -> None:
        draft.mkdir(parents=True)
        (draft / "head.safetensors").write_bytes(b"half")

    world.worker.meanwhile = half_written
    world.worker.answers = [WorkFailedError("OSError: [Errno 28] No space left", traceback), passed(1)]
    with structlog.testing.capture_logs() as said:
        world.trainer.tick()
    (line,) = (line for line in said if line["event"] == "cycle failed")
    assert line["error"] == "OSError: [Errno 28] No space left"
    assert line["exception"].endswith("No space left")
    assert not draft.exists()
    (report,) = world.reports()
    assert (report["verdict"], report["refusals"], report["version"]) == ("error", [line["error"]], None)
    (ended,) = world.control.ended_cycles(LANE)
    assert (ended.verdict, ended.why, ended.next_try_s) == ("error", line["error"], NOW_S + 30.0)
    world.worker.meanwhile = lambda: None
    world.now_s += 31.0
    world.trainer.tick()
    assert [one.verdict for one in world.control.ended_cycles(LANE)] == ["error", "pass"]


def test_who_asks_after_a_failure_need_not_wait_for_the_next_try(world: World) -> None:
    world.fill(40)
    world.worker.answers = [WorkerDiedError("killed"), WorkerDiedError("killed"), passed(1)]
    world.trainer.tick()
    world.control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="there is room again", at_s=NOW_S))
    world.trainer.tick()
    world.trainer.tick()
    assert len(world.worker.done) == 2, "the same request waits as well"
    world.now_s += 61.0
    world.trainer.tick()
    assert world.standing().champion == version(1)


def test_a_cycle_log_that_cannot_be_written_costs_no_cycle(world: World) -> None:
    world.fill(40)
    world.log.parent.mkdir(parents=True)
    world.log.mkdir()
    world.worker.answers = [passed(1)]
    world.trainer.tick()
    assert world.standing().champion == version(1)
    assert world.control.training_state(LANE).items_at_cycle == 40


def test_redis_away_is_no_failed_cycle_and_the_trainer_says_what_it_waits_for(world: World) -> None:
    assert not world.trainer.ready()
    world.trainer.tick()
    assert world.trainer.ready()
    control = world.trainer.control
    world.trainer.control = Away()  # type: ignore[assignment] # a stand-in
    with structlog.testing.capture_logs() as said:
        for _ in range(30):
            world.trainer.tick()
    assert [line["event"] for line in said] == ["a lane cannot be looked at"]
    assert not world.trainer.ready()
    assert "waiting for Redis: Connection refused" in (world.trainer.trouble() or "")
    assert world.trainer.healthy(), "it lives: nothing is won by starting it anew"
    world.trainer.control = control
    world.trainer.tick()
    assert world.trainer.ready()


def test_redis_away_in_the_middle_of_a_cycle_costs_nothing_if_it_is_back_in_time(world: World) -> None:
    world.fill(40)
    world.worker.answers = [passed(1)]
    conductor, renew = world.trainer._conductor, world.control.renew
    seen: list[bool] = []

    def away_once() -> None:
        keep = conductor._keeper(LANE, world.control.acquire(LANE, "trainer-1", 15.0) or pytest.fail("no lease"))
        world.now_s += 11.0
        world.control.renew = Away().renew  # type: ignore[method-assign] # a stand-in
        keep()
        seen.append(world.trainer.ready())
        world.now_s += 11.0
        world.control.renew = renew  # type: ignore[method-assign]
        keep()
        seen.append(world.trainer.ready())

    world.worker.meanwhile = away_once
    world.trainer.tick()
    assert seen == [False, True]
    assert world.standing().champion == version(1)


def test_a_store_that_is_away_for_the_childs_work_is_no_failed_cycle(world: World) -> None:
    world.fill(40)
    world.worker.answers = [StoreUnavailableError("Redis: Connection refused"), passed(1)]
    world.trainer.tick()
    assert not world.log.exists()
    assert not world.trainer.ready()
    world.now_s += 6.0
    world.trainer.tick()
    assert world.standing().champion == version(1)
    assert world.trainer.ready()


def test_the_trainer_is_ready_before_its_first_cycle_has_ended(world: World) -> None:
    world.fill(40)
    world.worker.answers = [passed(1)]
    ready: list[bool] = []
    world.worker.meanwhile = lambda: ready.append(world.trainer.ready())
    world.trainer.tick()
    assert ready == [True]


def test_a_schedule_that_gives_no_sign_of_life_is_not_alive_and_a_long_cycle_is(world: World) -> None:
    world.fill(40)
    world.worker.answers = [passed(1)]
    alive: list[bool] = []

    def hours() -> None:
        for _ in range(100):
            world.now_s += 50.0
            world.trainer._pulse.beat()  # as the keeper does while the child is waited for
            alive.append(world.trainer.healthy())

    world.worker.meanwhile = hours
    world.trainer.tick()
    assert all(alive)
    world.now_s += 200.0
    assert not world.trainer.healthy()
    assert "no sign of life" in (world.trainer.trouble() or "")


def test_rulings_are_read_at_each_look_and_an_accepted_prompt_makes_a_cycle_due(world: World) -> None:
    world.trainer.lanes = [replace(world.trainer.lanes[0], prompt_version="m@new", terms=TERMS)]
    world.fill(60)
    paid_under = next(iter(next(iter(world.buffer.items(LANE))).tally))
    label = next(iter(next(iter(world.buffer.items(LANE))).tally[paid_under]))
    with structlog.testing.capture_logs() as logs:
        assert world.ticks(3) == 0
    told = [line for line in logs if line["event"] == "how the answers are read today"]
    assert [(line["stale"], line["fresh"], line["log_level"]) for line in told] == [(60, 0, "warning")]
    assert items_shown(label, "stale") == 60
    world.trainer.rules = lambda _: Rules(prompts=frozenset({paid_under}), labels={label: "refund"})
    assert world.ticks(3) == 1
    assert world.worker.done[-1].training.readings.prompts == {paid_under}
    assert (items_shown("refund", "fresh"), items_shown("refund", "stale")) == (60, 0)
    world.trainer.rules = lambda _: Rules()
    assert world.ticks(2) == 0
    assert items_shown(label, "stale") == 60


def test_rulings_that_cannot_be_read_hold_the_lane_and_say_so(world: World) -> None:
    def broken(_: Lane) -> Rules:
        message = "ruling 2 is missing"
        raise BrokenChainError(message)

    world.fill(60)
    world.trainer.rules = broken
    assert world.ticks(2) == 0
    assert "ruling 2 is missing" in str(world.trainer.trouble())


def items_shown(label: str, state: str) -> float | None:
    names = {"tenant": LANE.tenant, "use_case": LANE.use_case, "label": label, "state": state}
    return REGISTRY.get_sample_value("understudy_items", names)


def test_while_a_cycle_runs_its_stage_and_the_time_left_are_told_and_afterwards_none_is(
    world: World, redis_client: redis.Redis
) -> None:
    signs, seen = Signs(redis_client), list[TrainerSign]()
    for seconds in (30.0, 50.0, 90.0):
        ended = CycleEnded(id="x", at_s=1.0, seconds=seconds, kind="head", verdict="pass", why="", version=version(9))
        world.control.cycle_ended(LANE, ended)

    def meanwhile() -> None:
        world.now_s += 10.0
        world.trainer._beacon.give()
        sign = signs.of(LANE)
        assert sign is not None
        seen.append(sign)

    world.fill(40)
    world.worker.says, world.worker.meanwhile = [("fitting", None)], meanwhile
    world.worker.answers = [passed(1), WorkFailedError("no")]
    world.control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="now", at_s=NOW_S, id="asked"))
    world.trainer.tick()
    cycle = seen[0].cycle
    assert cycle is not None
    assert (cycle.kind, cycle.stage, cycle.number, cycle.stages, cycle.request) == ("head", "fitting", 4, 6, "asked")
    assert (cycle.elapsed_s, cycle.left_s, cycle.left_by) == (10.0, 40.0, "earlier_cycles")  # 50 s are usual
    assert seen[0].busy_with == str(LANE)
    after = signs.of(LANE)
    assert after is not None
    assert (after.busy_with, after.cycle) == (None, None)
    assert world.control.ended_cycles(LANE)[-1].request == "asked"
    world.control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="now", at_s=NOW_S, id="again"))
    world.trainer.tick()  # it fails
    after = signs.of(LANE)
    assert after is not None
    assert after.cycle is None
    last = world.control.ended_cycles(LANE)[-1]
    assert (last.verdict, last.request) == ("error", "again")


def test_the_time_left_is_reckoned_from_steps_where_they_are_known_and_else_unknown() -> None:
    progress = Progress(id="1", kind="fine_tune", at_s=NOW_S, request="", started_s=0.0, earlier_s=())
    assert progress.left(5.0) == (None, None)
    progress.told("fine_tuning", 0.01, 10.0)
    assert progress.left(11.0) == (None, None)  # too early to tell
    progress.told("fine_tuning", 0.25, 40.0)
    assert progress.left(40.0) == (90.0, "steps")
    progress.told("judging", None, 130.0)
    assert progress.left(131.0) == (None, None)
    known = Progress(id="1", kind="head", at_s=NOW_S, request="", started_s=0.0, earlier_s=(10.0, 14.0, 30.0))
    assert known.left(4.0) == (10.0, "earlier_cycles")
    assert known.left(14.0) == (None, None)  # longer than usual


def test_the_schedule_waits_for_the_last_row_of_an_import_and_a_person_does_not(
    world: World, redis_client: redis.Redis
) -> None:
    signs = Signs(redis_client)
    world.fill(40)
    signs.import_goes_on(LANE)
    world.worker.answers = [passed(1), passed(2)]
    world.trainer.tick()
    assert world.worker.done == []
    world.control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="now", at_s=NOW_S))
    world.trainer.tick()
    assert len(world.worker.done) == 1
    world.fill(80, first=40)
    world.trainer.tick()
    assert len(world.worker.done) == 1
    signs.import_ended(LANE)
    world.trainer.tick()
    assert len(world.worker.done) == 2


def test_what_a_cycle_took_is_in_the_books_once_even_where_redis_was_away_at_its_end(
    world: World, redis_client: redis.Redis
) -> None:
    def meanwhile() -> None:
        world.now_s += 90.0
        world.trainer._training_books._books = Away()  # type: ignore[assignment] # a stand-in

    books = Books(redis_client)
    world.fill(40)
    world.worker.meanwhile, world.worker.answers = meanwhile, [WorkFailedError("no")]
    world.trainer.tick()
    assert books.read(LANE).ever == Deeds()
    later = TrainingBooks(books, world.trainer.lanes, world.log.parent)  # after a restart
    for _ in range(2):
        later.show()
        later = TrainingBooks(books, world.trainer.lanes, world.log.parent)
    assert books.read(LANE).ever == Deeds(cycles=1, training_ms=90_000)


def test_day_zero_is_a_head_and_then_at_once_a_fine_tuning_on_the_same_rows(world: World) -> None:
    world.trainer.schedule = replace(SCHEDULE, head_first=True)
    world.fill(1000)
    head = replace(passed(1), label_items={"refund": 500, "cancel": 500})
    world.worker.answers = [head, replace(passed(2), label_items=head.label_items), passed(3)]
    world.control.request_cycle(LANE, CycleRequest(kind="head", who="me", why="import", at_s=NOW_S))
    for _ in range(4):
        world.now_s += 1.0
        world.trainer.tick()
    assert [work.kind for work in world.worker.done] == ["head", "fine_tune"]
    assert world.worker.done[1].champion == version(1)
    assert world.standing().champion == version(2)
