"""The dashboards: their files are what the code writes, their queries name what the processes write, and have answers.

A real Prometheus scrapes real processes with a lane of each task, and evaluates every panel's queries.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client import CollectorRegistry

import trainer.metrics
from deploy.grafana.generate import BOARDS, FOLDER, file_of, text_of
from deploy.grafana.panels import Board, Query
from ops.logs.repeats import RepeatLimit
from ops.processes import admin
from ops.settings import Settings
from serve.metrics import ServeMetrics
from stream.metrics import IngestMetrics
from tests.deploy.desk_and_shop import USE_CASES, Running, desk_and_shop
from tests.deploy.facts import DEPLOY, documents
from tests.integration.alerting import Watch, prometheus
from tests.ops.test_every_setting import leaves
from tests.ops.test_named_commands import fault_of, named_in

RULES: Final = (DEPLOY / "prometheus" / "understudy.rules.yml").read_text("utf-8")
OF_PROMETHEUS: Final = {"job", "instance"}  # labels that it sets itself
OF_OTHERS: Final = {  # series that are no process' own metric: what they are labelled with
    "ALERTS": {"alertname", "alertstate", "severity"},
    "process_resident_memory_bytes": set[str](),
    "process_cpu_seconds_total": set[str](),
}
_SELECTOR: Final = re.compile(r"\b([a-zA-Z_:]\w*)\{([^}]*)\}")
_DEADLINE_S: Final = 600.0
USED: Final = "Budget used"


def labels_of() -> dict[str, set[str]]:
    """Every series that the processes write, with its labels."""
    serve, ingest, every = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
    ServeMetrics.create(serve)
    IngestMetrics.create(ingest)
    RepeatLimit(registry=every)
    ours = [one for one in vars(trainer.metrics).values() if hasattr(one, "_labelnames")]
    written: list[Any] = [admin._INFO, *ours]
    for registry in (serve, ingest, every):
        written += registry._collector_to_names
    found: dict[str, set[str]] = dict(OF_OTHERS)
    for one in written:
        labels = set(one._labelnames)
        metric = next(iter(one.collect()))
        if metric.type == "histogram":
            found |= {f"{metric.name}_{part}": labels for part in ("sum", "count")}
            found[f"{metric.name}_bucket"] = labels | {"le"}
        else:
            found[f"{metric.name}_total" if metric.type == "counter" else metric.name] = labels
    return found


def queries(board: Board) -> list[Query]:
    return [query for panel in board.panels for query in panel.queries]


def filled(promql: str) -> str:
    """A query as Grafana sends it: its variables as they are while all lanes are chosen."""
    for name, value in {"$tenant": ".+", "$use_case": ".+", "$__rate_interval": "1m"}.items():
        promql = promql.replace(name, value)
    assert "$" not in promql
    return promql


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_file_is_what_make_docs_writes(board: Board) -> None:
    assert file_of(board).read_text("utf-8") == text_of(board), "run `make docs`"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_grafana_can_tell_dashboards_panels_and_queries_apart(board: Board) -> None:
    shown = json.loads(file_of(board).read_text("utf-8"))
    assert shown["uid"] == f"understudy-{board.name}"
    panels = [one for one in shown["panels"] if one["type"] != "row"]
    assert len({one["id"] for one in shown["panels"]}) == len(shown["panels"])
    assert len(panels) == len(board.panels)
    for one, panel in zip(panels, board.panels, strict=True):
        assert [target["expr"] for target in one["targets"]] == [query.promql for query in panel.queries]
        assert len({target["refId"] for target in one["targets"]}) == len(panel.queries)
        assert one["datasource"]["uid"] == "${source}"
        assert one["gridPos"]["x"] + one["gridPos"]["w"] <= 24
    assert {one["name"] for one in shown["templating"]["list"]} == {"source", "tenant", "use_case"}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_series_and_label_that_a_query_names_is_written(board: Board) -> None:
    written = labels_of()
    for query in queries(board):
        promql = filled(query.promql)
        named = {name for name in re.findall(r"\b(?:understudy|process)_\w+", promql) if name in written}
        assert set(re.findall(r"\bunderstudy_\w+", promql)) <= written.keys(), promql
        assert named or "ALERTS" in promql, promql
        for name, matchers in _SELECTOR.findall(promql):
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\"", matchers))
            assert labels <= written[name] | OF_PROMETHEUS, promql
        known = {label for name in named for label in written[name]} | OF_PROMETHEUS | OF_OTHERS["ALERTS"]
        grouped = {
            one.strip() for group in re.findall(r"(?:by|on|group_left) \(([^)]*)\)", promql) for one in group.split(",")
        }
        assert grouped <= known, promql
        assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= known, query.legend


def test_a_wrong_label_would_be_told() -> None:
    assert "tenant" not in labels_of()["understudy_ingest_lag_records"]
    assert labels_of()["understudy_request_seconds_bucket"] == {"tenant", "use_case", "served_by", "le"}


def test_what_a_panel_says_names_settings_and_commands_that_exist() -> None:
    keys = {re.sub(r"^lanes\.", "", key) for key in leaves(Settings)}
    for board in BOARDS:
        for panel in board.panels:
            dotted = re.findall(
                r"\b(?:lanes|gateway|trainer|spool|budget)\.[a-z_.]*[a-z_]", f"{panel.says} {panel.at_zero}"
            )
            assert {name.removeprefix("lanes.") for name in dotted} <= keys, panel.title
            assert [fault for line in named_in(panel.says) if (fault := fault_of(line))] == []


def test_compose_and_kubernetes_are_given_every_dashboard() -> None:
    files = sorted(path.name for path in FOLDER.glob("*.json"))
    assert files == sorted(f"{board.name}.json" for board in BOARDS)
    grafana = DEPLOY / "grafana"
    (generated,) = yaml.safe_load((grafana / "kustomization.yaml").read_text("utf-8"))["configMapGenerator"]
    assert sorted(generated["files"]) == [f"dashboards/{name}" for name in files]
    (provider,) = documents((grafana / "provisioning/dashboards/understudy.yml").read_text("utf-8"))[0]["providers"]
    compose = documents((DEPLOY / "compose" / "compose.yaml").read_text("utf-8"))[0]["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    assert mounts["../grafana/provisioning"] == "/etc/grafana/provisioning"
    (source,) = documents((grafana / "provisioning/datasources/prometheus.yml").read_text("utf-8"))[0]["datasources"]
    assert source["url"].removeprefix("http://").split(":")[0] in compose


@pytest.fixture
def watched(tmp_path: Path, redis_url: str) -> Iterator[tuple[Running, Watch]]:
    """Processes at work, and a Prometheus that reads them."""
    with desk_and_shop(tmp_path / "site", redis_url) as running:
        until(running, "all run", lambda: len(running.admin_ports()) == 3 and answers(running))
        with prometheus(tmp_path / "prometheus", RULES, running.admin_ports()) as watch:
            running.learn(tmp_path)
            yield running, watch


def answers(running: Running) -> bool:
    try:
        running.ask()
    except (AssertionError, OSError):
        return False
    return True


def until(running: Running, what: str, condition: Any) -> None:
    deadline_s = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not in time: {what}\n{running.said()}"
        time.sleep(0.2)


@pytest.mark.timeout(1800)
def test_every_query_has_an_answer_of_real_processes(watched: tuple[Running, Watch]) -> None:
    running, watch = watched
    missing = {
        one.promql for board in BOARDS for panel in board.panels if not panel.empty_while for one in panel.queries
    }

    def answered() -> bool:
        running.ask()
        missing.difference_update([one for one in missing if watch.ask("query", query=filled(one))["result"]])
        return not missing

    try:
        until(running, "an answer to every query", answered)
    except AssertionError as error:
        error.add_note("without an answer:\n" + "\n".join(sorted(missing)))
        raise
    for board in BOARDS:
        for query in queries(board):  # those that are empty in health can be evaluated, too
            watch.ask("query", query=filled(query.promql))
    (used,) = (one.promql for board in BOARDS for panel in board.panels for one in panel.queries if panel.title == USED)
    assert lanes_shown(watch, filled(used)) == set(USE_CASES), "a lane of each task"
    chosen = used.replace("$tenant", "acme").replace("$use_case", "desk|shop")
    assert lanes_shown(watch, chosen) == {"desk", "shop"}


def lanes_shown(watch: Watch, promql: str) -> set[str]:
    return {one["metric"]["use_case"] for one in watch.ask("query", query=promql)["result"]}
