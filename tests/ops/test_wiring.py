"""What the settings say of a lane reaches the gateway and the trainer."""

from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry

from ops.answers.reading import Reading
from ops.site import Site
from ops.wiring import ingest, serve, train
from serve.lifecycle import Gateway
from serve.routing.budget import BudgetRouting
from store.answers.rulings import Ruling
from store.event import Lane
from tests.ops.sites import make_site, open_site
from tests.serve.fakes import FakeSink

BUDGET_ONLY = {"policy": '"budget"', "metric": '"balanced_accuracy"', "rows_per_day": "500", "calls_per_day": "200"}
NOWHERE = redis.Redis.from_url("unix:///nowhere/redis.sock")


def site_of(folder: Path, **values: Any) -> Site:
    return open_site(make_site(folder / "site", **values))


def test_a_lanes_policy_metric_and_forecast_reach_the_gateway(tmp_path: Path) -> None:
    site = site_of(tmp_path, **BUDGET_ONLY)
    (parts,) = serve.services(site, NOWHERE, FakeSink(), CollectorRegistry()).lanes
    settings = parts.settings
    assert (settings.policy, settings.metric, settings.rows_per_day) == ("budget", "balanced_accuracy", 500.0)
    assert settings.budget.calls_per_day == 200


@pytest.mark.parametrize(("values", "plans"), [({}, False), (BUDGET_ONLY, True)])
def test_only_a_lane_without_a_promise_plans_its_budget(tmp_path: Path, values: dict[str, str], plans: bool) -> None:  # noqa: FBT001 - a column of the table
    site = site_of(tmp_path, **values)
    services = serve.services(site, NOWHERE, FakeSink(), CollectorRegistry())
    (lane,) = Gateway(services, serve.gateway_settings(site.settings)).lanes
    routing = lane.service.routing
    assert routing.promises != plans
    if isinstance(routing, BudgetRouting):
        assert routing.horizon.allowance().rows_left == pytest.approx(500.0)


@pytest.mark.parametrize(("values", "policy"), [({}, "promise"), (BUDGET_ONLY, "budget")])
def test_the_trainer_is_told_the_lanes_policy(tmp_path: Path, values: dict[str, str], policy: str) -> None:
    (training,) = train.trainer(site_of(tmp_path, **values), NOWHERE, "me").lanes
    assert training.policy == policy


def test_the_start_of_ingest_reads_a_lanes_rulings_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of(tmp_path)
    rename(site, "invoice", "invoices")
    read: list[str] = []
    rulings = Site.rulings

    def counted(self: Site, lane: Lane) -> list[Ruling]:
        read.append(str(lane))
        return rulings(self, lane)

    monkeypatch.setattr(Site, "rulings", counted)
    (keys,) = ingest.lane_keys(site, "support").values()
    assert read == ["acme/support"]
    assert keys.terms.earlier == ("invoice",)
    assert keys.prompts[0] == Reading.of(site.settings.lanes[0]).key()


def test_rulings_that_do_not_verify_stop_no_ingest_and_tell_of_no_label(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    rename(site, "invoice", "invoices")
    (ruling,) = (site.registry_root / "acme" / "support" / "rulings").glob("*.json")
    ruling.unlink()
    ruling.write_bytes(b"{}")
    (keys,) = ingest.lane_keys(site, "support").values()
    assert (keys.terms.earlier, keys.prompts) == ((), ())


def rename(site: Site, label: str, to: str) -> None:
    chain, key = site.registry.rulings(site.settings.lanes[0].lane), site.operator_key()
    chain.append("rename", who="ann", why="spelling", key=key, now_s=1.0, labels=[label], to=to)
