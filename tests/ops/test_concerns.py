"""What is said before a version is made the champion by hand, and what is refused without --force."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from typer.testing import CliRunner, Result

from ops.checks.concerns import LanePromise, LaneTraffic, concerns, remarks, traffic_of
from ops.cli.app import app
from store.control import REMEMBERED_REQUESTS, Control, CycleEnded, Heartbeat
from store.policy import Policy
from store.registry.files.durable import append_line
from store.registry.manifest import Manifest
from store.registry.moves import fold
from store.registry.signing import SigningKey
from tests.ops.sites import CERTIFIED, LANE, make_site, open_site, publish
from tests.store.drafts import make_draft, make_manifest
from tests.trainer.test_due import result

PROMISE = LanePromise(
    policy="promise",
    target=0.95,
    confidence=0.95,
    calls_per_day=5000,
    traffic=lambda: LaneTraffic(requests_per_day=28_800.0, at_least=False),
)
UNCERTIFIED = msgspec.structs.replace(CERTIFIED, threshold=None)


def said(manifest: Manifest, promise: LanePromise = PROMISE, *, serving: tuple[str, ...] = ()) -> str:
    before = make_manifest(labels=list(serving)).student if serving else None
    return "; ".join(concerns("v1", manifest, promise, serving=before, removal_declared=False))


def of(policy: Policy | None, **changes: Any) -> Manifest:
    return make_manifest(lane=LANE, policy=policy, **changes)


@pytest.mark.parametrize("policy", [None, UNCERTIFIED])
def test_a_version_without_a_threshold_is_said_to_send_everything_to_the_teacher(policy: Policy | None) -> None:
    told = said(of(policy))
    assert "every question will go to the teacher, about 28,800 calls a day" in told
    assert "against a budget of 5,000" in told
    assert "a call for each" in said(of(policy), LanePromise(**{**fields(PROMISE), "traffic": lambda: None}))
    assert said(of(policy), LanePromise(**{**fields(PROMISE), "policy": "budget"})) == "", "it asks by the budget alone"


def fields(promise: LanePromise) -> dict[str, Any]:
    return {name: getattr(promise, name) for name in LanePromise.__dataclass_fields__}


def test_a_version_that_is_certified_for_less_than_the_lane_promises_is_named() -> None:
    assert said(of(CERTIFIED)) == ""
    assert "certified for 90.0%" in said(of(msgspec.structs.replace(CERTIFIED, target=0.9)))
    assert "80.0% confidence" in said(of(msgspec.structs.replace(CERTIFIED, confidence_level=0.8)))
    assert said(of(msgspec.structs.replace(CERTIFIED, target=0.99))) == ""


def test_labels_that_no_gateway_would_take_are_named() -> None:
    assert said(of(CERTIFIED), serving=("refund", "cancel")) == ""
    assert "would become" in said(of(CERTIFIED), serving=("cancel", "refund"))
    assert "would be removed" in said(of(CERTIFIED), serving=("refund", "cancel", "login"))


def test_what_the_gate_said_is_said() -> None:
    assert "never judged" in remarks("v1", of(CERTIFIED))[0]
    assert remarks("v1", of(CERTIFIED, verdict=result("pass").verdict)) == []
    assert "fail of v1: why" in remarks("v1", of(CERTIFIED, verdict=result("fail").verdict))[0]


def test_the_traffic_is_what_the_gateways_remember() -> None:
    assert traffic_of({}) is None
    beats = {name: Heartbeat(version=None, at_s=0.0, recent_requests=50) for name in "ab"}
    assert traffic_of(beats) == LaneTraffic(requests_per_day=28_800.0, at_least=False)
    beats["c"] = Heartbeat(version=None, at_s=0.0, recent_requests=REMEMBERED_REQUESTS)
    found = traffic_of(beats)
    assert found is not None
    assert found.at_least


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return make_site(tmp_path / "site")


def uncertified(settings: Path) -> str:
    """A version without a policy, published and not promoted."""
    site = open_site(settings)
    draft = make_draft(settings.parent / "uncertified", head=b"none")
    key = SigningKey.load(site.settings.keys.trainer)
    return site.registry.versions(LANE).publish(draft, make_manifest(lane=LANE), key)


def test_promote_of_a_version_without_a_threshold_is_refused_until_it_is_forced(settings: Path) -> None:
    (good,) = publish(settings, b"one")
    version = uncertified(settings)
    refused = call("promote", version, "-c", settings)
    assert refused.exit_code == 4
    told = " ".join(refused.stderr.split())
    assert "nothing was moved" in told
    assert "every question will go to the teacher" in told
    assert "--force" in told
    assert fold(open_site(settings).registry.moves(LANE).read()).champion == good
    forced = call("promote", version, "-c", settings, "--force", "-o", "json")
    assert forced.exit_code == 0
    assert "every question will go to the teacher" in " ".join(forced.stderr.split())
    report = json.loads(forced.stdout)
    assert (report["to"], len(report["warnings"])) == (version, 2)
    assert fold(open_site(settings).registry.moves(LANE).read()).champion == version


def test_a_rollback_is_made_at_once_and_says_what_to_expect(settings: Path) -> None:
    version = uncertified(settings)
    publish(settings, b"one")
    rolled = call("rollback", "-c", settings, "--to", version, "-o", "json")
    assert rolled.exit_code == 0
    assert "every question will go to the teacher" in " ".join(rolled.stderr.split())
    assert "every question will go to the teacher" in json.loads(rolled.stdout)["warnings"][0]


FAILED = CycleEnded(
    id="c1",
    at_s=1_800_000_000.0,
    seconds=3.0,
    kind="fine_tune",
    verdict="error",
    why="OSError: [Errno 28] No space left on device",
    next_try_s=1_800_000_033.0,
)


def test_status_and_history_show_a_failed_cycle(tmp_path: Path, redis_url: str, redis_client: redis.Redis) -> None:
    settings = make_site(tmp_path / "site", url=f'"{redis_url}"')
    publish(settings, b"one")
    assert json.loads(call("status", "-c", settings, "-o", "json").stdout)["lanes"][0]["last_cycle"] is None
    Control(redis_client).cycle_ended(LANE, FAILED)
    shown = json.loads(call("status", "-c", settings, "-o", "json").stdout)["lanes"][0]["last_cycle"]
    assert (shown["verdict"], shown["why"], shown["next_try_s"]) == ("error", FAILED.why, FAILED.next_try_s)
    (cycle,) = json.loads(call("history", "-c", settings, "-o", "json").stdout)["cycles"]
    assert cycle["why"] == FAILED.why
    for command in ("status", "history"):
        assert "No space left" in " ".join(call(command, "-c", settings).stdout.split())


def test_with_redis_down_the_cycles_of_this_machine_are_shown(settings: Path) -> None:
    publish(settings, b"one")
    line = {**msgspec.to_builtins(FAILED), "lane": str(LANE), "refusals": [FAILED.why], "rows_judged": 0}
    path = open_site(settings).run_directory / "cycles.jsonl"
    append_line(path, msgspec.json.encode({**line, "id": "c0", "lane": "other/lane"}))
    with path.open("ab") as file:
        file.write(b'{"torn')
    append_line(path, msgspec.json.encode(line))
    (cycle,) = json.loads(call("history", "-c", settings, "-o", "json").stdout)["cycles"]
    assert (cycle["id"], cycle["why"]) == ("c1", FAILED.why)
    (lane,) = json.loads(call("status", "-c", settings, "-o", "json").stdout)["lanes"]
    assert lane["last_cycle"]["verdict"] == "error"
