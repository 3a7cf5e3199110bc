"""`status` says what can be known, and names what cannot be."""

import json
import os
from pathlib import Path

import pytest
import redis
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from ops.cli.app import app
from ops.moves.followers import followers
from ops.processes.admin import Probes, admin_server
from ops.site import Site
from ops.state.run_files import RunFile, write_run_file
from ops.status.collect import collect
from store.buffer.redis import RedisBuffer
from store.control import Control, Heartbeat
from store.cycles.signs import CycleRunning, Signs, TrainerSign
from store.event import Lane, wall_clock_s
from store.money.books import Books
from store.money.deeds import Deeds
from store.money.tally import DeedBatch
from stream.embedded.log import EmbeddedLog
from stream.log import topic_of
from tests.contracts.escalations import Partition, escalation
from tests.ops.sites import LANE, make_site, open_site, publish

NOW_S = 1_800_000_000.0


@pytest.fixture
def down(tmp_path: Path) -> Site:
    """An installation whose Redis does not answer."""
    path = make_site(tmp_path / "site")
    publish(path, b"one", b"two")
    return open_site(path)


@pytest.fixture
def up(tmp_path: Path, redis_url: str) -> Site:
    """An installation with a real Redis."""
    path = make_site(tmp_path / "site", url=f'"{redis_url}"')
    publish(path, b"one", b"two")
    return open_site(path)


def beat(version: str | None, *, suspended: bool = False, at_s: float = NOW_S) -> Heartbeat:
    return Heartbeat(
        version=version,
        at_s=at_s,
        recent_requests=100,
        recent_escalated=30,
        budget_used_calls=7,
        budget_limit_calls=5000,
        suspended=suspended,
        teacher_answers=20,
        teacher_unread=5,
    )


def lasting(client: redis.Redis) -> None:
    """Whoever spoke until now counts as alive for an hour: how slow the test's machine is does not matter."""
    for key in [*client.keys("*:beat:*"), *client.keys("*:trainer")]:
        client.expire(key, 3600)


def test_with_redis_down_the_registry_still_speaks_and_the_rest_is_null_and_named(down: Site) -> None:
    report = collect(down, list(down.settings.lanes))
    (lane,) = report.lanes
    moves = down.registry.moves(LANE).read()
    assert (lane.champion, lane.previous) == (moves[1].version, moves[0].version)
    assert lane.last_move is not None
    assert (lane.last_move.kind, lane.last_move.number) == ("promote", 2)
    assert (lane.served, lane.promise.state, lane.budget.used, lane.escalated_ratio, lane.buffer) == (
        {},
        None,
        None,
        None,
        None,
    )
    assert [process.pid for process in report.processes] == [None, None, None]
    assert "Redis" in report.unavailable[0]


def test_heartbeats_tell_who_serves_what_and_a_silent_replica_is_left_out(up: Site, redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    control.announce(LANE, "one", beat("a" * 16))
    control.announce(LANE, "two", beat(None))
    control.announce(LANE, "gone", beat("b" * 16))
    lasting(redis_client)
    redis_client.pexpire(redis_client.keys("*beat:gone")[0], 5000)  # by Redis' clock: the replicas' may be wrong
    (lane,) = collect(up, list(up.settings.lanes)).lanes
    assert lane.served == {"one": "a" * 16, "two": None}
    assert lane.escalated_ratio == 0.3
    assert lane.unread_ratio == 0.25
    assert (lane.budget.used, lane.budget.limit) == (7, 5000)
    assert followers(up, LANE).serves == lane.served


def test_the_promise_is_metered_by_the_champions_audits(up: Site, redis_client: redis.Redis) -> None:
    champion = up.registry.moves(LANE).read()[-1].version
    events = [
        escalation(f"q{n}", number=n, reason="audit", version=str(champion), student="refund", label="refund")
        for n in range(200)
    ]
    other = [escalation(f"r{n}", number=500 + n, reason="audit", version="other", student="cancel") for n in range(9)]
    Partition(RedisBuffer(redis_client, 1000), 0).apply([*events, *other])
    (lane,) = collect(up, list(up.settings.lanes)).lanes
    assert (lane.promise.state, lane.promise.audits, lane.promise.estimate) == ("held", 200, 1.0)
    assert lane.promise.low is not None
    assert lane.promise.target is not None
    assert lane.promise.low >= lane.promise.target
    assert lane.buffer is not None
    assert (lane.buffer.counted, lane.buffer.items_ever) == (209, 209)
    control = Control(redis_client)
    states = []
    for replica, suspended in (("one", False), ("two", True), ("three", False)):
        control.announce(LANE, replica, beat(champion, suspended=suspended))
        lasting(redis_client)
        (lane,) = collect(up, list(up.settings.lanes)).lanes
        states.append(lane.promise.state)
    assert states == ["held", "suspended", "suspended"]  # one is enough: nobody vouches for its answers


def test_a_budget_only_lane_promises_nothing_and_is_never_suspended(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    path = make_site(tmp_path / "site", url=f'"{redis_url}"', policy='"budget"')
    champion = publish(path, b"one")[0]
    site = open_site(path)
    events = [
        escalation(f"q{n}", number=n, reason="audit", version=champion, student="refund" if n < 120 else "cancel")
        for n in range(200)
    ]
    Partition(RedisBuffer(redis_client, 1000), 0).apply(events)
    Control(redis_client).announce(LANE, "one", beat(champion, suspended=True))
    lasting(redis_client)
    (lane,) = collect(site, list(site.settings.lanes)).lanes
    assert lane.policy == "budget"
    assert (lane.promise.target, lane.promise.state, lane.promise.audits_short) == (None, "none", None)
    assert (lane.promise.audits, lane.promise.estimate) == (200, 0.6)
    shown = CliRunner().invoke(app, ["status", "-c", str(path)])
    assert "none: budget only" in shown.stdout
    assert "60.0% of 200 audits" in shown.stdout
    for word in ("broken", "suspended", "held"):
        assert word not in shown.stdout
    (told,) = json.loads(CliRunner().invoke(app, ["status", "-c", str(path), "-o", "json"]).stdout)["lanes"]
    assert (told["policy"], told["promise"]["target"], told["promise"]["state"]) == ("budget", None, "none")


def test_with_redis_down_a_budget_only_lane_still_promises_nothing(tmp_path: Path) -> None:
    path = make_site(tmp_path / "site", policy='"budget"')
    (lane,) = collect(open_site(path), list(open_site(path).settings.lanes)).lanes
    assert (lane.policy, lane.promise.target, lane.promise.state) == ("budget", None, None)
    shown = CliRunner().invoke(app, ["status", "-c", str(path)]).stdout
    assert "none: budget only" in shown


def test_lag_is_what_the_log_holds_beyond_the_stored_positions(up: Site, redis_client: redis.Redis) -> None:
    log = EmbeddedLog(redis_client)
    log.ensure(topic_of(LANE.use_case), 1)
    for number in range(5):
        log.append(topic_of(LANE.use_case), key=b"k", value=str(number).encode()).result(5)
    log.close()
    (lane,) = collect(up, list(up.settings.lanes)).lanes
    assert lane.buffer is not None
    assert lane.buffer.lag_records == 5


def test_dead_letters_are_counted_by_reason(up: Site, redis_client: redis.Redis) -> None:
    Partition(RedisBuffer(redis_client, 10), 0).apply([], {"undecodable": 3})
    assert collect(up, list(up.settings.lanes)).dead_letters == {LANE.use_case: {"undecodable": 3}}


def test_with_redis_down_the_gateway_of_this_machine_is_asked_itself(down: Site) -> None:
    served = {str(LANE): {"here": "c" * 16}}
    probes = Probes(live=lambda: True, ready=lambda: True, lanes=lambda: served)
    with admin_server("127.0.0.1", 0, probes, registry=CollectorRegistry()) as port:
        record = RunFile(name="serve", pid=os.getpid(), started_s=wall_clock_s(), admin_port=port, port=1)
        write_run_file(down.run_directory, record)
        report = collect(down, list(down.settings.lanes))
        assert followers(down, LANE).serves == {"here": "c" * 16}
    assert report.lanes[0].served == {"here": "c" * 16}
    process = report.processes[0]
    assert (process.name, process.pid, process.port, process.ready) == ("serve", os.getpid(), 1, True)


def test_what_a_process_that_is_not_ready_waits_for_is_told(down: Site) -> None:
    why = "support: partition 0 stands still: offset 7 is an event of task 'rank'"
    probes = Probes(live=lambda: True, ready=lambda: False, why=lambda: why, degraded=lambda: ["no spool"])
    with admin_server("127.0.0.1", 0, probes, registry=CollectorRegistry()) as port:
        record = RunFile(name="ingest", pid=os.getpid(), started_s=wall_clock_s(), admin_port=port)
        write_run_file(down.run_directory, record)
        process = collect(down, list(down.settings.lanes)).processes[1]
        assert (process.name, process.ready, process.why) == ("ingest", False, [why, "degraded: no spool"])
        settings = down.settings.keys.data_secret.parent / "understudy.toml"
        assert f"ingest: {why}" in CliRunner().invoke(app, ["status", "-c", str(settings)]).stderr


def test_a_chain_that_does_not_verify_is_not_repeated(down: Site) -> None:
    path = down.registry_root / "acme" / "support" / "moves" / "00000002.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"why":"passed"', b'"why":"passes"'))
    report = collect(open_site(down.settings.keys.data_secret.parent / "understudy.toml"), list(down.settings.lanes))
    assert not report.lanes[0].moves_ok
    assert report.lanes[0].champion is None
    assert any("moves of acme/support" in why for why in report.unavailable)


def test_people_read_the_same(down: Site) -> None:
    settings = down.settings.keys.data_secret.parent / "understudy.toml"
    result = CliRunner().invoke(app, ["status", "-c", str(settings)])
    assert result.exit_code == 3
    assert "acme/support" in result.stdout
    assert "Redis does not answer" in result.stdout
    assert "not available: Redis" in result.stderr
    assert "nothing answers" in result.stderr


def exit_of(site: Site, *more: str) -> int:
    settings = site.settings.keys.data_secret.parent / "understudy.toml"
    return CliRunner().invoke(app, ["status", "-c", str(settings), *more]).exit_code


def test_a_redis_without_any_process_of_ours_answers_nothing(up: Site, redis_client: redis.Redis) -> None:
    assert (exit_of(up), exit_of(up, "-o", "json")) == (3, 3)
    Control(redis_client).announce(LANE, "elsewhere", beat(None))
    lasting(redis_client)
    assert (exit_of(up), exit_of(up, "-o", "json")) == (0, 0)
    redis_client.delete(*redis_client.keys("*beat:*"))
    assert exit_of(up) == 3
    Signs(redis_client).give(LANE, TrainerSign(owner="t", at_s=NOW_S, busy_with=None, cycle=None))
    lasting(redis_client)
    assert exit_of(up) == 0
    Signs(redis_client).take_back(LANE)
    assert exit_of(up) == 3


@pytest.mark.parametrize("ready", [True, False])
def test_one_process_that_answers_is_enough_ready_or_not_and_without_redis(down: Site, *, ready: bool) -> None:
    probes = Probes(live=lambda: True, ready=lambda: ready)
    with admin_server("127.0.0.1", 0, probes, registry=CollectorRegistry()) as port:
        record = RunFile(name="train", pid=os.getpid(), started_s=wall_clock_s(), admin_port=port, port=None)
        write_run_file(down.run_directory, record)
        assert exit_of(down) == 0
    assert exit_of(down) == 3  # its run file is still there


def test_what_was_spent_and_saved_and_the_cycle_in_hand_are_told(up: Site, redis_client: redis.Redis) -> None:
    books = Books(redis_client)
    done = Deeds(student=900, teacher=100, cached=5, unanswered=2, calls=100, calls_nano_usd=200_000_000)
    books.write(LANE, DeedBatch(writer="w", number=1, deeds=done + Deeds(training_ms=3_600_000, cycles=1)))
    cycle = CycleRunning(
        id="1",
        kind="fine_tune",
        at_s=NOW_S,
        request="",
        stage="fine_tuning",
        number=4,
        stages=7,
        done_ratio=0.25,
        elapsed_s=61.4,
        left_s=120.0,
        left_by="steps",
    )
    Signs(redis_client).give(LANE, TrainerSign(owner="t", at_s=NOW_S, busy_with=str(LANE), cycle=cycle))
    lasting(redis_client)
    report = collect(up, list(up.settings.lanes))
    (lane,) = report.lanes
    assert lane.money is not None
    assert report.money is not None
    for money in (lane.money.today, lane.money.month, lane.money.start, report.money.start):
        assert (money.student, money.teacher, money.cached, money.unanswered) == (900, 100, 5, 2)
        assert money.teacher_only_usd == pytest.approx(2.0)
        assert money.saved_usd == pytest.approx(1.8)
    assert lane.trainer is not None
    assert lane.trainer.cycle == cycle
    settings = up.settings.keys.data_secret.parent / "understudy.toml"
    shown = " ".join(CliRunner().invoke(app, ["status", "-c", str(settings)]).stdout.split())
    assert shown.count("$0.20 spent, about $1.80 saved of $2.00") == 3
    assert "900 by the student, 100 by the teacher, 5 given again, 2 by nobody, 0 turned away" in shown
    assert "$0.0020 on average, measured this month" in shown
    assert "fine_tune, fine-tuning 25% (stage 4 of 7), 1 min 1 s so far, about 2 min 0 s left, by its steps" in shown


def test_without_prices_it_says_which_settings_are_missing(up: Site, redis_client: redis.Redis) -> None:
    Books(redis_client).write(LANE, DeedBatch(writer="w", number=1, deeds=Deeds(student=9, calls=1)))
    settings = up.settings.keys.data_secret.parent / "understudy.toml"
    shown = CliRunner().invoke(app, ["status", "-c", str(settings)]).stdout
    assert "saved" not in shown
    assert "lanes.teacher.input_usd_per_mtok" in shown


def test_lanes_add_up_below_them(tmp_path: Path, redis_url: str, redis_client: redis.Redis) -> None:
    path = make_site(tmp_path / "site", url=f'"{redis_url}"')
    text = path.read_text("utf-8")
    lane = text[text.index("[[lanes]]") :]
    path.write_text(text + lane.replace('tenant = "acme"', 'tenant = "other"'), "utf-8")
    for tenant, calls in (("acme", 100), ("other", 50)):
        done = Deeds(student=100, teacher=calls, calls=calls, calls_nano_usd=calls * 10_000_000)
        Books(redis_client).write(Lane(tenant, LANE.use_case), DeedBatch(writer="w", number=1, deeds=done))
    report = collect(open_site(path), list(open_site(path).settings.lanes))
    assert report.money is not None
    assert report.money.today.spent_usd == pytest.approx(1.5)
    assert report.money.today.saved_usd == pytest.approx(2.0)
    shown = CliRunner().invoke(app, ["status", "-c", str(path)]).stdout
    assert "$1.50 spent, about $2.00 saved of $3.50" in " ".join(shown.partition("all lanes")[2].split())
