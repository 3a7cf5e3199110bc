"""`status` says what can be known, and names what cannot be."""

import json
import os
from pathlib import Path

import pytest
import redis
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from ops.checks.followers import followers
from ops.cli.app import app
from ops.cli.status import collect
from ops.processes.admin import Probes, admin_server
from ops.processes.process import RunFile, write_run_file
from ops.site import Site
from store.buffer.redis import RedisBuffer
from store.control import Control, Heartbeat
from store.event import wall_clock_s
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


def beat(version: str | None, *, suspended: bool = False) -> Heartbeat:
    return Heartbeat(
        version=version,
        at_s=NOW_S,
        recent_requests=100,
        recent_escalated=30,
        budget_used_calls=7,
        budget_limit_calls=5000,
        suspended=suspended,
        teacher_answers=20,
        teacher_unread=5,
    )


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
    assert result.exit_code == 0
    assert "acme/support" in result.stdout
    assert "Redis does not answer" in result.stdout
    assert "not available: Redis" in result.stderr
