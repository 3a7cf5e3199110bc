"""The alerts: their syntax, one firing and one silent case each, a runbook page each, and metrics that exist."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, CollectorRegistry

import trainer.metrics
from serve.metrics import ServeMetrics
from stream.metrics import IngestMetrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "understudy.rules.yml"
CASES = ROOT / "deploy" / "prometheus" / "understudy.test.yml"
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.MULTILINE)
SECTIONS = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]


def promtool(*arguments: str) -> str:
    program = shutil.which("promtool")
    if program is None:
        assert "CI" not in os.environ, "promtool is missing: run deploy/setup-services"  # noqa: TID251
        pytest.skip("promtool is missing: run deploy/setup-services")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_reads_the_rules() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", str(RULES))


def test_every_case_holds() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(CASES))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_firing_and_a_silent_case(alert: str) -> None:
    cases = CASES.read_text()
    assert f"name: {alert} fires\n" in cases
    assert f"name: {alert} stays silent\n" in cases


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_names_its_runbook_page(alert: str) -> None:
    page = ROOT / "deploy" / "runbooks" / f"{alert}.md"
    text = page.read_text()
    assert f"deploy/runbooks/{alert}.md" in RULES.read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == SECTIONS


def test_every_runbook_page_has_its_alert() -> None:
    assert sorted(page.stem for page in (ROOT / "deploy" / "runbooks").glob("*.md")) == sorted(ALERTS)


def test_every_metric_that_a_rule_reads_is_one_that_a_process_writes() -> None:
    assert trainer.metrics.CYCLES is not None  # the import registers them
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
