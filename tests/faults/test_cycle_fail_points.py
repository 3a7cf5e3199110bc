"""A trainer is killed at each point of a cycle: the next one completes it, and nothing is judged or told twice."""

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from ops.answers.reading import Reading
from ops.checks.verify import verify_site
from store.control import Control, CycleRequest
from store.event import Escalation, LabelAnswer, Lane, RankAnswer, encode, utc
from store.faults import points
from store.registry.moves import fold
from tests.contracts.escalations import START_S, escalation
from tests.faults.test_fail_points import START_S as SLOW_S
from tests.faults.test_fail_points import killed, process, run
from tests.ops.children import REPOSITORY, until
from tests.ops.shared_topic import SHOP, add_the_shop
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand, standing
from tests.ops.stand import until as in_time
from tests.tiny import questions, tiny_encoder
from tests.trainer.rank.lists import a_list, event_of, scores_of
from trainer.work import draft_folder

CYCLE = sorted(point for point in points.POINTS if point.startswith("cycle."))
AT_THE_MOVE = ["cycle.moved", "cycle.noted"]  # first, when a verdict promotes
IN_ORDER = [*AT_THE_MOVE, *(point for point in CYCLE if point not in AT_THE_MOVE)]
IN_THE_WORK = {"cycle.frozen", "cycle.fitted", "cycle.drafted", "cycle.published"}
FIRST, MORE = 150, 12  # new questions before a cycle


class Desk:
    """An installation with a lane of each task, whose questions are all new."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.control = Control(stand.client)
        self._numbers = itertools.count()
        self.asked: dict[str, Lane] = {}

    def learn(self, lane: Lane, count: int) -> None:
        """Have the lane asked so many questions, and wait until ingest has them."""
        counted = self.stand.buffer.counters(lane).counted
        for _ in range(count):
            value = encode(self._event(lane, next(self._numbers)))
            self.stand.appender.append(TOPIC, key=b"k", value=value).result(30)
        in_time(lambda: self.stand.buffer.counters(lane).counted == counted + count)

    def _event(self, lane: Lane, number: int) -> Escalation:
        section, rng = self.stand.site.lane(str(lane)), Random(number)
        model, prompt_version = section.teacher.model, Reading.of(section).version()
        if lane == LANE:
            (text,), (label,) = questions(1, seed=number)
            event = escalation(f"{text} {number}", number=number, label=label, student=None, reason="audit")
            said = LabelAnswer(model=model, prompt_version=prompt_version, label=label)
            return msgspec.structs.replace(event, teacher=said)
        offered = a_list(rng)
        scores = RankAnswer(model=model, prompt_version=prompt_version, scores=scores_of(offered, rng))
        ranked = event_of(offered, scores, rng, at_s=START_S + number)
        return msgspec.structs.replace(ranked, use_case=lane.use_case, tenant=lane.tenant, time=utc(START_S + number))

    def ask(self, lane: Lane, candidate: str | None = None) -> str:
        """Ask for a cycle; the request's id."""
        request = CycleRequest(
            kind="head" if candidate is None else "candidate",
            who="me",
            why="a test",
            at_s=START_S,
            candidate=candidate,
            id=f"request-{len(self.asked)}",
        )
        self.asked[request.id] = lane
        self.control.request_cycle(lane, request)
        return request.id

    def submit(self, lane: Lane, version: str) -> str:
        """Have a version judged once more; the request's id."""
        key = self.stand.site.trainer_key()
        self.stand.site.registry.moves(lane).append("submit", version=version, who="me", why="w", key=key, now_s=2e9)
        return self.ask(lane, version)

    def verdicts(self, lane: Lane) -> list[Any]:
        moves = self.stand.site.registry.moves(lane).read()
        return [move for move in moves if move.kind in {"promote", "decline"}]

    def champion(self, lane: Lane) -> str | None:
        return fold(self.stand.site.registry.moves(lane).read()).champion

    def lines(self) -> list[dict[str, Any]]:
        """Of the cycle log, but for those of cycles that came to no verdict."""
        path = self.stand.site.run_directory / "cycles.jsonl"
        found = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
        return [line for line in found if line["verdict"] != "error"]

    def forget_leases(self) -> None:
        """Those of the dead run out in a quarter of a minute."""
        for lane in (LANE, SHOP):
            self.stand.client.delete(f"{{{lane.use_case}}}:{lane.tenant}:lease")

    def is_at_rest(self, request: str, before: int) -> None:
        """What was asked for last has come to one verdict, told once, and nothing is left over."""
        lane = self.asked[request]
        verdicts, site = self.verdicts(lane), self.stand.site
        assert len(verdicts) == before + 1, request
        assert [line["version"] for line in self.lines() if line["request"] == request] == [verdicts[-1].version]
        ended = [one for one in self.control.ended_cycles(lane) if one.request == request and one.verdict != "error"]
        assert [one.version for one in ended] == [verdicts[-1].version]
        assert self.control.next_cycle_request(lane) is None
        assert self.control.ending(lane) is None
        assert not draft_folder(site.settings.state_dir / "cache", lane).exists()
        manifest = site.registry.versions(lane).open(verdicts[-1].version).manifest
        state = self.control.training_state(lane)
        assert state.last_cycle_s == manifest.created_s
        if manifest.kind != "candidate":
            assert manifest.snapshot is not None
            items = len(list(self.stand.buffer.items(lane)))
            assert state.items_at_cycle == manifest.snapshot.rows == items

    def is_sound(self) -> None:
        """Chains, versions, buffer and log, of both lanes."""
        lanes = [LANE, SHOP]
        report = verify_site(self.stand.site, lanes)
        assert report.ok, report
        assert report.complete
        assert report.chain_ok
        assert report.versions_ok
        for lane in lanes:
            judged = [move.version for move in self.verdicts(lane)]
            assert len(judged) == len(set(judged)), "each version has one verdict"
        assert {line["request"] for line in self.lines()} == self.asked.keys()
        assert len(self.lines()) == len(self.asked)


@contextmanager
def a_desk(folder: Path, redis_url: str) -> Iterator[Desk]:
    settings = {
        "encoder": f'"{tiny_encoder(folder / "encoder", layers=3)}"',
        "device": '"cpu"',
        "precision": '"fp32"',
        "max_tokens": "32",
        "labels": '["refund", "delivery", "login"]',
        "min_new_labels": "100000",
        "min_items_per_label": "5",
        "fine_tune": "false",
        "quarantine_s": "0.0",
        "calibrate_ratio": "0.3",
        "judge_ratio": "0.25",
        "min_rows": "10",
        "target": "0.5",
    }
    with standing(folder, redis_url, partitions="1", **settings) as stand:
        add_the_shop(stand)
        with stand.ingesting():
            yield Desk(stand)


def kill_at_each(desk: Desk, dies: Callable[[str], None], completes: Callable[[], None]) -> None:
    """Whatever there is to learn, a trainer dies of it once, and the next one does it."""
    for number, point in enumerate(IN_ORDER):
        lane = (LANE, SHOP)[number % 2]
        desk.learn(lane, MORE if number > 1 else FIRST)
        before, request = len(desk.verdicts(lane)), desk.ask(lane)
        dies(point)
        desk.forget_leases()
        completes()
        desk.is_at_rest(request, before)
    for lane in (LANE, SHOP):
        (first, *_) = desk.verdicts(lane)
        assert (first.kind, first.anchor) == ("promote", True)
        assert desk.champion(lane) is not None


def test_every_point_is_tried() -> None:
    assert sorted(IN_ORDER) == CYCLE


@contextmanager
def forks(stand: Stand) -> Iterator[Callable[[str], int]]:
    """Has a trainer run, by `tests.faults.trainers`; given a point or nothing, it says how that ended."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.trainers", stand.path],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as trainers:
        told, says = trainers.stdin, trainers.stdout
        assert told is not None
        assert says is not None

        def ends(point: str) -> int:
            told.write(f"{point}\n")
            told.flush()
            return int(says.readline())

        yield ends
        told.close()


@pytest.mark.timeout(900)
def test_the_next_trainer_completes_what_one_died_of(tmp_path: Path, redis_url: str) -> None:
    with a_desk(tmp_path, redis_url) as desk, forks(desk.stand) as ends:

        def dies(point: str) -> None:
            assert ends(point) == -signal.SIGKILL, point

        def completes() -> None:
            assert ends("") == 0

        kill_at_each(desk, dies, completes)
        for number, point in enumerate(("cycle.published", "cycle.moved", "cycle.remembered")):
            before, champion = len(desk.verdicts(LANE)), desk.champion(LANE)
            request = desk.submit(LANE, [one.version for one in desk.verdicts(LANE) if one.version != champion][number])
            dies(point)
            desk.forget_leases()
            completes()
            desk.is_at_rest(request, before)
        desk.is_sound()


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_so_it_does_as_it_is_started_with_a_process_for_its_cycles(tmp_path: Path, redis_url: str) -> None:
    with a_desk(tmp_path, redis_url) as desk:

        def has_failed() -> bool:
            lane, request = list(desk.asked.items())[-1][::-1]
            return any(one.request == request and one.verdict == "error" for one in desk.control.ended_cycles(lane))

        def at_rest() -> bool:
            lanes = (LANE, SHOP)
            return all(desk.control.next_cycle_request(one) is None and not desk.control.ending(one) for one in lanes)

        def dies(point: str) -> None:
            if point not in IN_THE_WORK:
                killed(*run("train", desk.stand), fail_point=point)
                return
            with process(*run("train", desk.stand), fail_point=point):
                until(has_failed, seconds=SLOW_S)

        def completes() -> None:
            with process(*run("train", desk.stand)):
                until(at_rest, seconds=SLOW_S)

        kill_at_each(desk, dies, completes)
        desk.is_sound()
