"""The alerts: their syntax, one firing and one silent case each, a runbook page each, and metrics that exist.

What real processes do to them is in `test_alerting`.
"""

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, CollectorRegistry

import trainer.metrics
from ops.processes.admin import name_process
from ops.sections import AdminSection
from serve.metrics import ServeMetrics
from stream.metrics import IngestMetrics
from tests.integration.alerting import program
from tests.ops.test_named_commands import fault_of, named_in

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = FOLDER / "understudy.rules.yml"
CASES = FOLDER / "understudy.test.yml"
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.MULTILINE)
SECTIONS = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]


def test_prometheus_reads_the_rules() -> None:
    assert f"{len(ALERTS)} rules found" in program("promtool", "check", "rules", str(RULES))


def test_every_case_holds() -> None:
    assert "SUCCESS" in program("promtool", "test", "rules", str(CASES))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_firing_and_a_silent_case(alert: str) -> None:
    cases = CASES.read_text()
    assert f"name: {alert} fires\n" in cases
    assert (f"name: {alert} stays silent\n" in cases) == (alert != "Watchdog")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_names_its_runbook_page(alert: str) -> None:
    page = ROOT / "deploy" / "runbooks" / f"{alert}.md"
    text = page.read_text()
    assert f"runbook_url: deploy/runbooks/{alert}.md\n" in rule_of(alert)
    assert [line for line in text.splitlines() if line.startswith("## ")] == SECTIONS


@pytest.mark.parametrize("alert", ALERTS)
def test_every_runbook_ends_in_commands_that_exist(alert: str) -> None:
    mitigation = (ROOT / "deploy" / "runbooks" / f"{alert}.md").read_text().partition("## Mitigation")[2]
    said = named_in(mitigation)
    assert said, "it ends without a command of ours"
    assert [fault for line in said if (fault := fault_of(line))] == []
    units = re.findall(r"systemctl\s+(?:restart|reload|start|stop|status)\s+(understudy-\w+)", mitigation)
    assert all((ROOT / "deploy" / "systemd" / f"{unit}.service").is_file() for unit in units)


def test_alertmanager_reads_the_example_and_routes_by_severity() -> None:
    program("amtool", "check-config", str(FOLDER / "alertmanager.yml"))
    assert "SUCCESS" in program("promtool", "check", "config", str(FOLDER / "prometheus.yml"))
    for labels, receiver in {
        ("alertname=Watchdog", "severity=none"): "watchdog",
        ("alertname=UnderstudyIngestAbsent", "severity=page"): "pages",
        ("alertname=UnderstudyLagHigh", "severity=ticket"): "tickets",
    }.items():
        routes = ("config", "routes", "test", "--config.file", str(FOLDER / "alertmanager.yml"))
        assert program("amtool", *routes, *labels).split() == [receiver]


def test_the_example_scrapes_the_ports_that_are_the_default_and_inhibits_alerts_that_exist() -> None:
    ports = AdminSection()
    found = set(re.findall(r'"127\.0\.0\.1:(\d+)"\] # (\w+)', (FOLDER / "prometheus.yml").read_text()))
    assert found == {
        (str(ports.serve_port), "serve"),
        (str(ports.ingest_port), "ingest"),
        (str(ports.train_port), "train"),
    }
    named = set(re.findall(r"Understudy[A-Z]\w+", (FOLDER / "alertmanager.yml").read_text()))
    assert named <= set(ALERTS)


def test_every_severity_is_one_that_is_routed() -> None:
    assert set(re.findall(r"severity: (\w+)", RULES.read_text())) == {"page", "ticket", "none"}


def rule_of(alert: str) -> str:
    """The rule's own lines."""
    return RULES.read_text().partition(f"- alert: {alert}\n")[2].partition("- alert: ")[0]


def test_every_runbook_page_has_its_alert() -> None:
    assert sorted(page.stem for page in (ROOT / "deploy" / "runbooks").glob("*.md")) == sorted(ALERTS)


def test_every_metric_that_a_rule_reads_is_one_that_a_process_writes() -> None:
    assert trainer.metrics.CYCLES is not None  # the import registers them
    name_process("serve")
    others = CollectorRegistry()
    ServeMetrics.create(others)
    IngestMetrics.create(others)
    written = {
        name
        for registry in (REGISTRY, others)
        for metric in registry.collect()
        for name in (metric.name, f"{metric.name}_total")
    }
    pages = "\n".join(page.read_text() for page in (ROOT / "deploy" / "runbooks").glob("*.md"))
    read = set(re.findall(r"understudy_\w+", RULES.read_text() + pages))
    assert len(read) > len(ALERTS)
    assert {name.removesuffix("_bucket") for name in read} <= written
