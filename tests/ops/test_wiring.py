"""What the settings say of a lane reaches the gateway and the trainer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry

from ops.answers.reading import Reading
from ops.init import init
from ops.site import Site
from ops.wiring import ingest, serve, train
from serve.lifecycle import Gateway
from serve.routing.budget import BudgetRouting
from store.answers.rulings import Ruling
from store.buffer.ledger import LogSlot
from store.buffer.repair.lists import Lists
from store.errors import SettingsError
from store.event import Lane
from store.redact import redact_noting
from stream.embedded.log import EmbeddedLog
from tests.ops.sites import make_site, open_site, publish
from tests.serve.fakes import FakeSink

BUDGET_ONLY = {"policy": '"budget"', "metric": '"balanced_accuracy"', "rows_per_day": "500", "calls_per_day": "200"}
NOWHERE = redis.Redis.from_url("unix:///nowhere/redis.sock")


def site_of(folder: Path, **values: Any) -> Site:
    return open_site(make_site(folder / "site", **values))


@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_ingest_may_make_a_topic_anew_that_somebody_has_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("stream.kafka.source.KafkaSource", lambda *_, **told: seen.update(told))
    monkeypatch.setattr(EmbeddedLog, "source", lambda *_, **told: seen.update(told))
    settings = open_site(make_site(tmp_path / "site")).settings
    log = settings.log.model_copy(update={"kind": kind, "bootstrap": "k:1"})
    site = Site(settings.model_copy(update={"log": log}))
    nothing: Any = None
    ingest._source(site, NOWHERE, nothing, "support", "me", {})
    assert callable(seen["remake"])


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


@pytest.mark.parametrize(
    ("values", "policy", "metric"), [({}, "promise", "accuracy"), (BUDGET_ONLY, "budget", "balanced_accuracy")]
)
def test_the_trainer_is_told_the_lanes_policy_and_metric(
    tmp_path: Path, values: dict[str, str], policy: str, metric: str
) -> None:
    (training,) = train.trainer(site_of(tmp_path, **values), NOWHERE, "me").lanes
    assert (training.policy, training.metric) == (policy, metric)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An installation whose lane has a champion."""
    settings = make_site(tmp_path_factory.mktemp("served") / "site")
    publish(settings, b"one")
    return open_site(settings)


def test_each_part_of_the_gateway_has_the_key_of_its_purpose(served: Site) -> None:
    (parts,) = serve.services(served, NOWHERE, FakeSink(), CollectorRegistry()).lanes
    lane, secret = parts.settings.lane, served.secret
    assert (parts.lane_key, parts.subject_key) == (secret.lane_key(lane), secret.subject_key(lane))
    assert parts.audit_key == secret.audit_key(lane)
    text = "write to jane@example.com"
    assert parts.redact(text) == redact_noting(text, secret.redaction_key(lane))


def test_a_version_is_weighed_by_its_files_against_the_memory_that_is_free(
    served: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parts,) = serve.services(served, NOWHERE, FakeSink(), CollectorRegistry()).lanes
    versions = served.registry.versions(parts.settings.lane)
    (version,) = versions.list()
    files = versions.manifest(version).files
    assert parts.versions.size_bytes(version) == sum(entry.size_bytes for entry in files.values()) > 0
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=7, total=9, free=1))
    assert parts.versions.available_bytes() == 7


def test_a_students_threads_are_set_before_it_computes(served: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (parts,) = serve.services(served, NOWHERE, FakeSink(), CollectorRegistry()).lanes
    told: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", told.append)
    parts.versions.ready()
    assert told == [1]


def test_a_lane_is_given_a_head_before_anything_that_takes_long(served: Site) -> None:
    trainer = train.trainer(served, NOWHERE, "me")
    assert trainer.schedule.head_first
    assert (trainer.schedule.tick_s, trainer.schedule.lease_s) == (1.0, 15.0)


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


def test_by_which_labels_a_slot_is_read_is_noted_with_its_claim(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[Any] = []
    monkeypatch.setattr("ops.wiring.ingest.EmbeddedLog.source", lambda *_, claim, **__: claims.append(claim))
    site, slot = site_of(tmp_path), LogSlot("understudy.support", "uuid", 0)
    ingest._source(site, redis_client, site.buffer(redis_client), "support", "me", ingest.lane_keys(site, "support"))
    (claim,) = claims
    assert claim(slot).fence == 1
    (held,) = Lists(redis_client).held("support")
    assert held.slot == slot
    assert held.lists["acme/support"].labels == list(site.settings.lanes[0].labels)


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


@pytest.mark.parametrize("model", ['"nowhere"', '"smollm2"'])
def test_a_language_model_that_is_not_there_stops_the_trainers_start(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.student.chat.folder.bundled_decoder", lambda: None)
    init(tmp_path / "site", task="chat")
    path = tmp_path / "site" / "understudy.toml"
    text = path.read_text("utf-8").replace('model = "smollm2"', f"model = {model}")
    path.write_text(text.replace("training_permitted = false", "training_permitted = true"), "utf-8")
    with pytest.raises(SettingsError, match=r"lanes\.student\.model of acme/support"):
        train.check_train(open_site(path))
